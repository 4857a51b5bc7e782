//! What a process and its descendants use, as `/proc` tells it.

use std::{collections::HashMap, fs, time::Duration};

/// The clock that `/proc` counts user and system time by; it is the same on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// A process, by its id, and all that descend from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process(pub(super) u32);

/// CPU time since the start of the processes, and memory now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// On a CPU.
    pub(super) cpu: Duration,
    /// In user space, in ticks of the clock.
    user_ticks: u64,
    /// In the kernel, in ticks of the clock.
    system_ticks: u64,
    /// The processes' own memory, without files they share with others.
    pub(super) memory_bytes: u64,
}

impl Usage {
    /// What was used since `earlier`, and how much memory has come to it.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
            memory_bytes: self.memory_bytes.saturating_sub(earlier.memory_bytes),
        }
    }

    /// The share of the CPU time that was spent in user space. The kernel tells it in ticks only, which are too coarse for
    /// short times.
    pub(super) fn user_share(&self) -> f64 {
        match self.user_ticks + self.system_ticks {
            0 => 0.0,
            both => self.user_ticks as f64 / both as f64,
        }
    }
}

impl Process {
    /// What is used; `None` if there is no such process.
    pub(super) fn usage(self) -> Option<Usage> {
        let mut usage = stat(self.0).map(|_| Usage::default())?;
        for pid in self.tree() {
            let Some(stat) = stat(pid) else { continue };
            usage.user_ticks += stat.user_ticks;
            usage.system_ticks += stat.system_ticks;
            usage.cpu += on_cpu(pid).unwrap_or(TICK * (stat.user_ticks + stat.system_ticks) as u32);
            usage.memory_bytes += memory_bytes(pid);
        }
        Some(usage)
    }

    fn tree(self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && let Some(stat) = stat(pid)
            {
                children.entry(stat.parent).or_default().push(pid);
            }
        }
        let mut tree = vec![self.0];
        let mut at = 0;
        while let Some(pid) = tree.get(at) {
            tree.extend(children.remove(pid).into_iter().flatten());
            at += 1;
        }
        tree
    }
}

struct Stat {
    parent: u32,
    user_ticks: u64,
    system_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let mut ticks = fields.skip(9).map_while(|field| field.parse().ok());
    Some(Stat { parent, user_ticks: ticks.next()?, system_ticks: ticks.next()? })
}

/// The time that all threads have been on a CPU, in nanoseconds as the scheduler counts it.
fn on_cpu(pid: u32) -> Option<Duration> {
    let mut total_ns = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        total_ns += text.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(total_ns))
}

fn memory_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok())
    };
    field("Pss_Anon:").or_else(|| field("Anonymous:")).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory_and_one_that_is_not_there_is_none() {
        let own = Process(std::process::id());
        let before = own.usage().unwrap();
        let mut sum = 0_u64;
        while own.usage().unwrap().since(&before).cpu < Duration::from_millis(5) {
            sum = (0..100_000).fold(sum, |sum, number| sum ^ number);
        }
        assert!(before.memory_bytes > 0 && sum < u64::MAX);
        assert_eq!(Process(u32::MAX).usage(), None);
    }
}
