use proptest::prelude::*;

use super::*;

fn worker(id: &str, connections: u64) -> RosterWorker {
    RosterWorker { id: id.parse().unwrap(), ready: true, connections, in_flight: 0 }
}

fn node(name: &str, cpus: u32, workers: &[RosterWorker]) -> RosterNode {
    RosterNode { name: name.to_owned(), cpus, connected: true, workers: workers.to_vec() }
}

fn roster(nodes: impl IntoIterator<Item = RosterNode>) -> Roster {
    Roster { nodes: nodes.into_iter().collect() }
}

fn split(shares: &[(&str, u32)]) -> BTreeMap<String, u32> {
    shares.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect()
}

fn shape() -> Shape {
    Shape::from(&PoolPolicy::default())
}

fn desired(generation: u64, shares: &[(&str, u32)]) -> DesiredPool {
    DesiredPool {
        pool: "default".parse().unwrap(),
        term: 1,
        generation: Generation(generation),
        workers: shares.iter().map(|(_, share)| share).sum(),
        split: split(shares),
        surge: BTreeMap::new(),
        drain: vec![],
        shape: shape(),
    }
}

fn plan_for(
    target: u32,
    roster: &Roster,
    current: Option<&DesiredPool>,
    evicted: &BTreeSet<WorkerId>,
) -> Option<DesiredPool> {
    let (pool, shape) = ("default".parse().unwrap(), shape());
    plan(target, Basis { pool: &pool, shape: &shape, roster, current, evicted, term: 2 })
}

fn check(target: u32, nodes: &[RosterNode], current: &[(&str, u32)], expect: &[(&str, u32)]) -> DesiredPool {
    let plan =
        plan_for(target, &roster(nodes.to_vec()), Some(&desired(5, current)), &BTreeSet::new()).unwrap();
    assert_eq!(plan.split, split(expect), "{target} over {nodes:?}");
    assert_eq!((plan.workers, plan.term, plan.generation), (target, 2, Generation(6)));
    plan
}

#[test]
fn workers_spread_by_cpus() {
    let (a, b) = (node("a", 4, &[]), node("b", 4, &[]));
    check(3, &[a.clone(), b.clone()], &[("a", 1)], &[("a", 2), ("b", 1)]);
    check(6, &[a.clone(), node("b", 2, &[])], &[], &[("a", 4), ("b", 2)]);
    // What runs stays where it is.
    check(5, &[a, b], &[("a", 4)], &[("a", 4), ("b", 1)]);
}

#[test]
fn the_cheapest_workers_leave_from_the_fullest_node() {
    let busy = [worker("a1", 50), worker("a2", 3), worker("a3", 40)];
    let a = node("a", 4, &busy);
    let b = node("b", 4, &[worker("b1", 1)]);
    let plan = check(2, &[a.clone(), b.clone()], &[("a", 3), ("b", 1)], &[("a", 1), ("b", 1)]);
    assert_eq!(plan.drain, ["a2".parse().unwrap(), "a3".parse().unwrap()]);
    // Between equally full nodes the cheaper worker decides.
    let a = node("a", 4, &busy[..1]);
    let plan = check(1, &[a, b.clone()], &[("a", 1), ("b", 1)], &[("a", 1)]);
    assert_eq!(plan.drain, ["b1".parse().unwrap()]);
    assert_eq!(plan.for_node("b").workers, 0);
}

#[test]
fn who_is_starting_leaves_before_who_serves() {
    let starting = RosterWorker { ready: false, ..worker("z", 0) };
    let plan = check(1, &[node("a", 1, &[worker("a1", 0), starting])], &[("a", 2)], &[("a", 1)]);
    assert_eq!(plan.drain, ["z".parse().unwrap()]);
}

#[test]
fn the_same_again_is_no_plan() {
    let roster = roster([node("a", 1, &[worker("a1", 0), worker("a2", 0)])]);
    let none = BTreeSet::new();
    assert_eq!(plan_for(2, &roster, Some(&desired(5, &[("a", 2)])), &none), None);
    let mut other_shape = desired(5, &[("a", 2)]);
    other_shape.shape.threads_per_worker = 7;
    let plan = plan_for(2, &roster, Some(&other_shape), &none).unwrap();
    assert_eq!(plan.generation, Generation(6));
}

#[test]
fn a_first_plan_waits_for_a_node_and_keeps_what_runs() {
    let none = BTreeSet::new();
    assert_eq!(plan_for(2, &Roster::default(), None, &none), None);
    let roster = roster([node("a", 8, &[]), node("b", 1, &[worker("b1", 0), worker("b2", 0)])]);
    assert_eq!(plan_for(2, &roster, None, &none).unwrap().split, split(&[("b", 2)]));
    // A pool that sleeps has a plan as well: somebody must listen.
    assert!(plan_for(0, &self::roster([node("a", 8, &[])]), None, &none).is_some());
}

#[test]
fn a_node_that_is_cut_off_keeps_its_share_and_a_forgotten_one_loses_it() {
    let cut_off = RosterNode { connected: false, ..node("a", 4, &[worker("a1", 0)]) };
    let b = node("b", 4, &[worker("b1", 0), worker("b2", 0)]);
    check(4, &[cut_off.clone(), b.clone()], &[("a", 1), ("b", 2)], &[("a", 1), ("b", 3)]);
    check(2, &[cut_off, b.clone()], &[("a", 1), ("b", 2)], &[("a", 1), ("b", 1)]);
    check(3, &[b], &[("a", 1), ("b", 2)], &[("b", 3)]);
}

#[test]
fn an_evicted_worker_is_replaced_before_it_goes() {
    let evicted = BTreeSet::from(["a1".parse().unwrap()]);
    let workers = [worker("a1", 100), worker("a2", 0)];
    let plan_with = |workers: &[RosterWorker], current: &DesiredPool| {
        plan_for(2, &roster([node("a", 4, workers)]), Some(current), &evicted)
    };
    let surge = plan_with(&workers, &desired(5, &[("a", 2)])).unwrap();
    assert_eq!((surge.workers, surge.share("a"), surge.drain.len()), (2, 3, 0));
    // It stays so while the replacement starts.
    let starting = RosterWorker { ready: false, ..worker("a3", 0) };
    let [a1, a2] = workers;
    assert_eq!(plan_with(&[a1.clone(), a2.clone(), starting], &surge), None);
    let back = plan_with(&[a1.clone(), a2.clone(), worker("a3", 0)], &surge).unwrap();
    assert_eq!((back.share("a"), back.drain.as_slice()), (2, ["a1".parse().unwrap()].as_slice()));
    assert_eq!(plan_with(&[a1, a2.clone(), worker("a3", 0)], &back), None);
    assert_eq!(plan_with(&[a2, worker("a3", 0)], &back), None);
}

#[test]
fn a_plan_survives_the_store() {
    let plan = desired(5, &[("a", 2)]);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<DesiredPool>(&json).unwrap(), plan);
}

prop_compose! {
    fn any_roster()(
        nodes in prop::collection::vec((1_u32..9, any::<bool>(), prop::collection::vec(0_u64..9, 0..6)), 0..5)
    ) -> Roster {
        let node = |(index, (cpus, connected, workers)): (usize, (u32, bool, Vec<u64>))| RosterNode {
            name: format!("n{index}"),
            cpus,
            connected,
            workers: workers
                .iter()
                .enumerate()
                .map(|(w, connections)| worker(&format!("n{index}-{w}"), *connections))
                .collect(),
        };
        Roster { nodes: nodes.into_iter().enumerate().map(node).collect() }
    }
}

proptest! {
    /// Whatever comes, step after step.
    #[test]
    fn generations_rise_by_one_with_every_change(steps in prop::collection::vec((0_u32..20, any_roster()), 1..20)) {
        let mut current: Option<DesiredPool> = None;
        for (target, roster) in steps {
            let evicted: BTreeSet<WorkerId> = roster.nodes.iter().flat_map(|n| n.workers.first()).take(1).map(|w| w.id.clone()).collect();
            for evicted in [BTreeSet::new(), evicted] {
                let before = current.as_ref().map_or(0, |c| c.generation.0);
                let Some(next) = plan_for(target, &roster, current.as_ref(), &evicted) else { continue };
                prop_assert_eq!(next.generation.0, before + 1);
                prop_assert_eq!(next.workers, target);
                // The same input again changes nothing: planning is idempotent.
                prop_assert_eq!(plan_for(target, &roster, Some(&next), &evicted), None);
                current = Some(next);
            }
        }
    }

    #[test]
    fn all_are_placed_where_any_node_can_take_them(target in 0_u32..40, roster in any_roster()) {
        prop_assume!(roster.nodes.iter().any(|n| n.connected));
        let none = BTreeSet::new();
        let Some(plan) = plan_for(target, &roster, Some(&desired(1, &[])), &none) else { return Ok(()) };
        prop_assert_eq!(plan.split.values().sum::<u32>(), target);
        let disconnected = |name: &String| roster.nodes.iter().any(|n| n.name == *name && !n.connected);
        prop_assert!(!plan.split.keys().any(disconnected));
    }
}
