//! The workers' metrics, all together: they listen on no port of their own, so the agent asks each and serves what they
//! say, with each worker's name on its series.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use model::{PoolName, WorkerId};
use tokio::sync::{mpsc, oneshot};

/// A worker that does not answer by then is left out of the scrape: half of a scraper's usual patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one worker: some ten thousand routes.
const MOST: usize = 16 << 20;
/// Scrapes that wait for the one that runs; each scraper has its own interval.
const WAITING: usize = 32;

/// Asks for the metrics of all workers of this agent.
#[derive(Debug, Clone)]
pub struct Scraper(mpsc::Sender<oneshot::Sender<Answers>>);

/// The agent's end of a [`Scraper`].
#[derive(Debug)]
pub struct Scrapes(mpsc::Receiver<oneshot::Sender<Answers>>);

/// A scraper and the agent's end of it.
#[must_use]
pub fn scrapes() -> (Scraper, Scrapes) {
    let (ask, asked) = mpsc::channel(WAITING);
    (Scraper(ask), Scrapes(asked))
}

impl Scraper {
    /// All workers' metrics as Prometheus text, with the labels `pool` and `worker`; empty when the agent has ended.
    pub async fn metrics(&self) -> String {
        let (answer, answered) = oneshot::channel();
        if self.0.send(answer).await.is_err() {
            return String::new();
        }
        let Ok(answers) = answered.await else { return String::new() };
        // Some MiB of text, away from the agent's loop.
        tokio::task::spawn_blocking(move || merge(&answers.read())).await.unwrap_or_default()
    }
}

impl Scrapes {
    /// The next one that asks; `None` for ever when nobody will.
    pub(crate) async fn next(&mut self) -> Option<oneshot::Sender<Answers>> {
        self.0.recv().await
    }
}

/// What workers have answered, unread.
#[derive(Debug, Default)]
pub(crate) struct Answers(Vec<(PoolName, WorkerId, OwnedFd)>);

impl Answers {
    /// Each worker's text; one that cannot be read is left out.
    fn read(&self) -> Vec<(String, String)> {
        let read = |(pool, worker, file): &(PoolName, WorkerId, OwnedFd)| {
            let bytes = sys::handover::take(file, MOST)
                .inspect_err(|error| tracing::warn!(%worker, %error, "a worker's metrics cannot be read"))
                .ok()?;
            Some((format!("pool=\"{pool}\",worker=\"{worker}\""), String::from_utf8(bytes).ok()?))
        };
        self.0.iter().filter_map(read).collect()
    }
}

/// A scrape that waits for its workers.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) number: u64,
    waiting: BTreeSet<WorkerId>,
    answers: Answers,
    ends: Instant,
    asked: oneshot::Sender<Answers>,
}

impl Scrape {
    pub(crate) fn new(
        number: u64,
        workers: BTreeSet<WorkerId>,
        asked: oneshot::Sender<Answers>,
        now: Instant,
    ) -> Self {
        Self { number, waiting: workers, answers: Answers::default(), ends: now + PATIENCE, asked }
    }

    /// A worker answers.
    pub(crate) fn take(&mut self, pool: PoolName, worker: WorkerId, file: OwnedFd) {
        if self.waiting.remove(&worker) {
            self.answers.0.push((pool, worker, file));
        }
    }

    /// A worker will not answer any more.
    pub(crate) fn forget(&mut self, worker: &WorkerId) {
        self.waiting.remove(worker);
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.waiting.is_empty() || now >= self.ends
    }

    /// Gives what there is to who asked.
    pub(crate) fn finish(self) {
        // Who has gone meanwhile has no use for it.
        self.asked.send(self.answers).ok();
    }
}

/// One family of metrics, of all workers.
#[derive(Default)]
struct Family<'t> {
    comments: Vec<&'t str>,
    samples: String,
}

/// Joins the texts of several instances, each with labels of its own: a family's samples must stand together, under one
/// `# TYPE` (Prometheus exposition format 0.0.4).
fn merge(texts: &[(String, String)]) -> String {
    let mut order: Vec<&str> = vec![];
    let mut families: HashMap<&str, Family<'_>> = HashMap::new();
    for (labels, text) in texts {
        let mut current = "";
        // A family's two comments, of whoever names it first.
        let mut new: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.split(' ').skip(1);
                current = words.next().unwrap_or_default();
                new.entry(current).or_default().push(line);
                continue;
            }
            let family = families.entry(current).or_insert_with(|| {
                order.push(current);
                Family::default()
            });
            if family.comments.is_empty() {
                family.comments = new.remove(current).unwrap_or_default();
            }
            label(&mut family.samples, line, labels);
        }
    }
    let mut merged = String::new();
    for name in order {
        let Some(Family { comments, samples }) = families.remove(name) else { continue };
        for comment in comments {
            merged.push_str(comment);
            merged.push('\n');
        }
        merged.push_str(&samples);
    }
    merged
}

/// Appends a sample with further labels: `name{a="b"} 1` or `name 1`.
fn label(out: &mut String, sample: &str, labels: &str) {
    // Writing to a String cannot fail.
    let _infallible = match (sample.split_once('{'), sample.split_once(' ')) {
        (Some((name, rest)), _) => writeln!(out, "{name}{{{labels},{rest}"),
        (None, Some((name, value))) => writeln!(out, "{name}{{{labels}}} {value}"),
        (None, None) => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stand_together_and_samples_say_whose_they_are() {
        let one = "# HELP a Of a.\n# TYPE a counter\na 1\n# HELP h Of h.\n# TYPE h histogram\n\
                   h_bucket{r=\"x y\",le=\"+Inf\"} 2\nh_sum{r=\"x y\"} 0.5\n";
        let two =
            "# HELP h Of h.\n# TYPE h histogram\nh_sum{r=\"z\"} 7\n# HELP a Of a.\n# TYPE a counter\na 3\n";
        let texts = [("w=\"1\"".to_owned(), one.to_owned()), ("w=\"2\"".to_owned(), two.to_owned())];
        let expect = "# HELP a Of a.\n# TYPE a counter\na{w=\"1\"} 1\na{w=\"2\"} 3\n\
                      # HELP h Of h.\n# TYPE h histogram\nh_bucket{w=\"1\",r=\"x y\",le=\"+Inf\"} 2\n\
                      h_sum{w=\"1\",r=\"x y\"} 0.5\nh_sum{w=\"2\",r=\"z\"} 7\n";
        assert_eq!(merge(&texts), expect);
        assert_eq!(merge(&[]), "");
        assert_eq!(merge(&[("w=\"1\"".to_owned(), "nonsense\n".to_owned())]), "");
    }

    #[tokio::test]
    async fn a_scrape_ends_with_its_last_worker_or_with_its_time() {
        let now = Instant::now();
        let workers: Vec<WorkerId> = ["w-1", "w-2", "w-3"].map(|name| name.parse().unwrap()).into();
        let pool: PoolName = "p".parse().unwrap();
        let (asked, answered) = oneshot::channel();
        let mut scrape = Scrape::new(1, workers.iter().cloned().collect(), asked, now);
        assert!(!scrape.is_over(now) && scrape.is_over(now + PATIENCE));
        scrape.forget(&workers[0]);
        let file = |text: &str| sys::handover::put(text.as_bytes()).unwrap();
        scrape.take(pool.clone(), workers[1].clone(), file("# TYPE a counter\na 1\n"));
        assert!(!scrape.is_over(now));
        scrape.take(pool.clone(), workers[2].clone(), file("# TYPE a counter\na 2\n"));
        // Twice is once, and a stranger is nobody.
        scrape.take(pool.clone(), workers[2].clone(), file("# TYPE a counter\na 3\n"));
        assert!(scrape.is_over(now));
        scrape.finish();
        let text = merge(&answered.await.unwrap().read());
        assert_eq!(
            text,
            "# TYPE a counter\na{pool=\"p\",worker=\"w-2\"} 1\na{pool=\"p\",worker=\"w-3\"} 2\n"
        );
    }
}
