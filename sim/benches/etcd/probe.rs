//! What the machine does: its load, its disk, the processes' CPU time.

use std::{fs, fs::File, os::unix::fs::FileExt, path::Path, time::Duration, time::Instant};

use anyhow::{Context, Result};

/// The last minute's load average.
pub(crate) fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// What an fdatasync costs below this directory.
pub(crate) fn syncs(dir: &Path) -> Result<String> {
    let file = File::create(dir.join("probe"))?;
    file.write_all_at(&vec![0; 1 << 20], 0)?;
    file.sync_all()?;
    let mut took = Vec::new();
    for block in 0..200 {
        let started = Instant::now();
        file.write_all_at(&[7; 1024], block * 1024)?;
        file.sync_data()?;
        took.push(started.elapsed());
    }
    took.sort();
    Ok(format!("p50 {} us, p99 {} us", took[100].as_micros(), took[197].as_micros()))
}

/// The CPU time of these processes so far, user and system.
pub(crate) fn cpu(processes: &[u32]) -> Result<Duration> {
    let mut ticks = 0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name in parentheses may have blanks; the times are fields 14 and 15.
        let rest = stat.rsplit_once(')').context("a process has a name")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// The middle one.
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
