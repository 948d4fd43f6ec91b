use super::*;

/// Workers of one pool, `w00`, `w01` ..., and a change on its way to them.
struct Fleet {
    pool: PoolName,
    workers: BTreeMap<WorkerId, Standing>,
    rollout: Rollout,
    now: Instant,
}

fn worker(n: usize) -> WorkerId {
    format!("w{n:02}").parse().unwrap()
}

impl Fleet {
    fn of(count: usize) -> Self {
        Self {
            pool: "default".parse().unwrap(),
            workers: (0..count).map(|n| (worker(n), Standing::Waiting)).collect(),
            rollout: Rollout::new(7, true, None),
            now: Instant::now(),
        }
    }

    fn judge(&mut self) -> Stage {
        let workers = self.workers.iter().map(|(worker, s)| (&self.pool, worker, s.clone()));
        self.rollout.judge(workers, self.now).0
    }

    fn admitted(&self) -> Vec<WorkerId> {
        self.workers.keys().filter(|w| self.rollout.admits(&self.pool, w)).cloned().collect()
    }

    /// All that have it acknowledge it.
    fn acknowledge(&mut self) -> Stage {
        for worker in self.admitted() {
            self.workers.insert(worker, Standing::Active);
        }
        self.judge()
    }
}

#[test]
fn one_then_a_tenth_then_all() {
    let mut fleet = Fleet::of(35);
    for wanted in [1, 4, 35] {
        assert_eq!((fleet.judge(), fleet.admitted().len()), (Stage::Running, wanted));
        // Nothing moves until the last of the wave has answered.
        for worker in fleet.admitted().into_iter().rev().skip(1) {
            fleet.workers.insert(worker, Standing::Active);
        }
        assert_eq!(fleet.judge(), Stage::Running);
        assert_eq!(fleet.admitted().len(), wanted);
        if wanted < 35 {
            fleet.acknowledge();
        }
    }
    assert_eq!(fleet.acknowledge(), Stage::Done);
}

#[test]
fn one_worker_is_done_with_its_answer_and_none_at_once() {
    let mut one = Fleet::of(1);
    assert_eq!((one.judge(), one.admitted().len()), (Stage::Running, 1));
    assert_eq!(one.acknowledge(), Stage::Done);
    assert_eq!(Fleet::of(0).judge(), Stage::Done);
}

#[test]
fn the_first_change_waits_for_workers_to_come() {
    let mut fleet = Fleet::of(0);
    fleet.rollout = Rollout::new(1, false, None);
    assert_eq!(fleet.judge(), Stage::Running);
    fleet.workers.insert(worker(0), Standing::Waiting);
    fleet.judge();
    assert_eq!(fleet.acknowledge(), Stage::Done);
}

#[test]
fn a_refusal_holds_the_rest_until_it_is_taken_back() {
    let mut fleet = Fleet::of(20);
    fleet.judge();
    fleet.workers.insert(worker(0), Standing::Refused("bad certificate".into()));
    let Stage::Held(why) = fleet.judge() else { panic!("not held") };
    assert!(why.contains("w00") && why.contains("bad certificate"), "{why}");
    fleet.workers.insert(worker(20), Standing::Waiting);
    fleet.judge();
    assert_eq!(fleet.admitted(), [worker(0)], "a worker that comes gets what is good");
    fleet.workers.insert(worker(0), Standing::Active);
    assert_eq!(fleet.judge(), Stage::Running);
    assert_eq!(fleet.admitted().len(), 3);
}

#[test]
fn a_worker_that_is_late_holds_the_rest_until_it_answers() {
    let mut fleet = Fleet::of(20);
    fleet.judge();
    fleet.now += WAVE_TIMEOUT - Duration::from_millis(1);
    assert_eq!(fleet.judge(), Stage::Running);
    assert_eq!(fleet.rollout.deadline(), Some(fleet.now + Duration::from_millis(1)));
    fleet.now += Duration::from_millis(1);
    assert!(matches!(fleet.judge(), Stage::Held(why) if why.contains("w00")));
    assert_eq!(fleet.rollout.deadline(), None);
    assert_eq!(fleet.acknowledge(), Stage::Running);
}

#[test]
fn one_that_leaves_is_replaced_and_a_second_one_holds() {
    let mut fleet = Fleet::of(20);
    fleet.judge();
    fleet.workers.remove(&worker(0));
    assert_eq!((fleet.judge(), fleet.admitted()), (Stage::Running, vec![worker(1)]));
    fleet.workers.remove(&worker(1));
    assert!(matches!(fleet.judge(), Stage::Held(why) if why.contains("2 workers left")));
    assert!(fleet.admitted().is_empty());
}

#[test]
fn workers_that_come_during_the_last_wave_get_it_and_are_waited_for() {
    let mut fleet = Fleet::of(3);
    fleet.judge();
    fleet.acknowledge();
    fleet.workers.insert(worker(3), Standing::Waiting);
    assert_eq!(fleet.judge(), Stage::Running);
    assert_eq!(fleet.admitted().len(), 4);
    assert_eq!(fleet.acknowledge(), Stage::Done);
}

#[test]
fn the_next_change_begins_with_those_that_had_the_one_before() {
    let mut fleet = Fleet::of(20);
    fleet.judge();
    fleet.workers.remove(&worker(0));
    fleet.judge();
    fleet.workers.insert(worker(0), Standing::Waiting);
    fleet.rollout = Rollout::new(8, true, Some(&fleet.rollout));
    fleet.judge();
    assert_eq!(fleet.admitted(), [worker(1)]);
}

#[test]
fn pools_go_their_own_way() {
    let mut fleet = Fleet::of(2);
    let other: PoolName = "other".parse().unwrap();
    let lonely = worker(9);
    let mut judge = |standing: Standing, lone: Standing| {
        let workers = fleet.workers.keys().map(|w| (&fleet.pool, w, standing.clone()));
        fleet.rollout.judge(workers.chain([(&other, &lonely, lone)]), fleet.now).0
    };
    assert_eq!(judge(Standing::Waiting, Standing::Waiting), Stage::Running);
    assert!(matches!(judge(Standing::Active, Standing::Refused("no".into())), Stage::Held(_)));
    judge(Standing::Active, Standing::Active);
    assert_eq!(judge(Standing::Active, Standing::Active), Stage::Done);
}
