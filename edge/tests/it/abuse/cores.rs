//! Which core works for whom in the long forms: the worker has one to itself, and all who ask and answer share the others. Among
//! those attackers, and who answers them, give way to honest clients. So what honest clients wait for is the worker, and not
//! their attackers beside them.

use std::{fs, process::Child, sync::OnceLock, time::Duration};

use rustix::{
    process::{Pid, getpriority_process, setpriority_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use super::is_long;

/// The worker's core, and the others; `None` where there is only one, or none is to be set apart.
fn parted() -> Option<(CpuSet, CpuSet)> {
    static OURS: OnceLock<CpuSet> = OnceLock::new();
    // As it is before this thread leaves one.
    let ours = OURS.get_or_init(|| sched_getaffinity(None).unwrap());
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core));
    let (mut worker, mut others) = (CpuSet::new(), CpuSet::new());
    worker.set(cores.next()?);
    cores.for_each(|core| others.set(core));
    (is_long() && others.count() > 0).then_some((worker, others))
}

/// Gives the worker, which has no other thread yet, a core to itself. This thread, and those that it starts from now on, leave it.
pub(crate) fn part(worker: &Child) {
    if let Some((first, others)) = parted() {
        sched_setaffinity(Some(Pid::from_child(worker)), &first).unwrap();
        sched_setaffinity(None, &others).unwrap();
    }
}

/// This thread, and those that it starts, run when no honest client does. Only where the worker's core is its own: on a machine
/// that has other work an attack would be none.
pub(crate) fn give_way() {
    if parted().is_some() {
        let nice = getpriority_process(None).unwrap();
        setpriority_process(None, nice + 19).unwrap();
    }
}

/// How long this thread was ready to run and did not, since it began.
pub(crate) fn kept_waiting() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').nth(1).and_then(|waited| waited.parse().ok()).unwrap_or(0))
}
