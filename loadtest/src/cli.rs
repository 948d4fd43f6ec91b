//! The commands: live progress on standard error where that is a terminal, the answer on standard output.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this module is the command line's output")]

use std::{
    fmt::Display,
    io::IsTerminal,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use autoscaler::sim::Second;
use serde::Serialize;

use crate::{
    Args, Limit, Plan, PlanArgs, Range, Search, Slo, Trial, capacity, parse_trace, run, search, what_if,
};

/// The largest trace file that is read.
const MAX_TRACE: u64 = 64 << 20;

/// Runs `weir loadtest`. An interrupt ends the run early; its report is printed all the same.
///
/// # Errors
///
/// No run was possible, or requests failed or were not sent, or no rate kept the objective.
pub fn run_cli(args: Args) -> Result<()> {
    block_on(async {
        let plan = args.plan()?;
        let stop = Stop::on_interrupt();
        if let Some((slo, range)) = args.search() {
            let found = search_aloud(&plan, slo, range, &stop).await?;
            show(&found, args.json)?;
            return found.best.map(drop).context("no rate kept the objective");
        }
        let report = run(plan, |second| {
            live(second);
            stop.flow()
        });
        let report = report.await?;
        show(&report, args.json)?;
        match report.failures() + report.not_sent {
            0 => Ok(()),
            lost => bail!("{lost} of {} requests failed or were not sent", report.planned),
        }
    })
}

/// Runs `weir plan`.
///
/// # Errors
///
/// Nothing could be measured, or numbers make no sense.
pub fn run_plan_cli(args: PlanArgs) -> Result<()> {
    block_on(async {
        let samples = match args.measurement()? {
            None => args.per_worker.clone(),
            Some((plan, slo, range)) => measure(&args, &plan, slo, range).await?,
        };
        // Any seed will do, as long as the same measurements give the same answer. A trace needs only the mean.
        let rate = if args.trace.is_some() { 1.0 } else { args.rate };
        let need = capacity(rate, &samples, args.utilization * 10, 1)?;
        match &args.trace {
            None => show(&need, args.json),
            Some(file) => show(&what_if(read_trace(file)?, &args.pool(need.per_worker)), args.json),
        }
    })
}

fn read_trace(file: &Path) -> Result<Vec<Second>> {
    let context = || format!("read {}", file.display());
    let size = std::fs::metadata(file).with_context(context)?.len();
    ensure!(size <= MAX_TRACE, "{} has {size} bytes; a trace has at most {MAX_TRACE}", file.display());
    let text = std::fs::read_to_string(file).with_context(context)?;
    parse_trace(&text).with_context(|| file.display().to_string())
}

async fn measure(args: &PlanArgs, plan: &Plan, slo: Slo, mut range: Range) -> Result<Vec<f64>> {
    let stop = Stop::on_interrupt();
    let mut samples = Vec::new();
    for _ in 0..args.runs {
        let found = search_aloud(plan, slo, range, &stop).await?;
        match (found.limit, found.best) {
            (Limit::Stopped, _) => bail!("stopped"),
            (Limit::Generator, _) => bail!(
                "the generator was late before the workers were at their limit: add --threads, or measure fewer workers"
            ),
            (_, None) => bail!("no rate kept p99 within {:?}", slo.p99),
            (_, Some(best)) => {
                samples.push(best / f64::from(args.workers));
                // The next search begins near the answer.
                range.start = best / 2.0;
            }
        }
    }
    Ok(samples)
}

async fn search_aloud(plan: &Plan, slo: Slo, range: Range, stop: &Stop) -> Result<Search> {
    let found = search(plan, slo, range, |trial| {
        live(trial);
        stop.flow()
    });
    Ok(found.await?)
}

/// Set by the first interrupt.
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn on_interrupt() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let set = stop.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                set.store(true, Ordering::Relaxed);
            }
        });
        Self(stop)
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.0.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?
        .block_on(work)
}

fn live(line: &impl Display) {
    if std::io::stderr().is_terminal() {
        eprintln!("{line}");
    }
}

fn show<T: Serialize + Display>(answer: &T, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(answer)?);
    } else {
        println!("{answer}");
    }
    Ok(())
}

impl Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let p99 = self.p99_us.map_or_else(|| "failed".to_owned(), |us| format!("{us} us"));
        let verdict = match (self.passed, self.valid) {
            (true, _) => "kept",
            (false, true) => "broken",
            (false, false) => "broken, and the generator was late",
        };
        write!(f, "{:>10.1}/s  p99 {p99:>12}  {} lost  {verdict}", self.rate, self.lost)
    }
}

impl Display for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for trial in &self.trials {
            writeln!(f, "{trial}")?;
        }
        let why = match self.limit {
            Limit::Objective => "the next rate broke it",
            Limit::Generator => "at the next rate the generator was late: the target may do more",
            Limit::Range => "it is the highest of the range",
            Limit::Stopped => "the search was stopped",
        };
        match self.best {
            Some(best) => write!(f, "{best:.1} requests/s keep p99 within {:?}; {why}", self.slo.p99),
            None => write!(f, "no rate kept p99 within {:?} with nothing lost; {why}", self.slo.p99),
        }
    }
}
