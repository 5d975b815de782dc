//! Who serves which queue of the ring.
//!
//! The kernel has a queue for every processor there could ever be, puts a request into the queue of the processor it is made on, and wants
//! every queue served before it hands out the first request. Processors that this process may run on get threads of their own, which stay
//! there: then neither request nor answer has to wake another processor. The queues of all others share one thread.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Threads a processor: while one copies a large file, or waits for a disk, the other goes on.
const PER_PROCESSOR: usize = 2;
/// Where the kernel lists the processors it has made room for.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
/// On a machine with more, so many threads and buffers would cost more than they bring.
const PROCESSORS_MAX: usize = 256;

/// The work of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Station {
    /// The processor it stays on.
    pub processor: Option<usize>,
    /// The queues it serves.
    pub queues: Vec<u16>,
}

impl Station {
    /// Keeps the calling thread where it belongs.
    pub fn settle(&self) -> io::Result<()> {
        let Some(processor) = self.processor else { return Ok(()) };
        let mut here = CpuSet::new();
        here.set(processor);
        Ok(sched_setaffinity(None, &here)?)
    }
}

/// The stations of this machine.
pub(super) fn stations() -> io::Result<Vec<Station>> {
    let possible = fs::read_to_string(POSSIBLE)?;
    let count = count(&possible).filter(|count| (1..=PROCESSORS_MAX).contains(count));
    let count = count.ok_or_else(|| io::Error::other(format!("processors {} are too many", possible.trim())))?;
    let ours = sched_getaffinity(None)?;
    Ok(assign(count, |processor| processor < CpuSet::MAX_CPU && ours.is_set(processor)))
}

fn assign(count: usize, is_ours: impl Fn(usize) -> bool) -> Vec<Station> {
    let queue = |processor| processor as u16;
    let (ours, others): (Vec<_>, Vec<_>) = (0..count).partition(|processor| is_ours(*processor));
    let mut stations: Vec<_> = ours
        .iter()
        .flat_map(|processor| [*processor; PER_PROCESSOR])
        .map(|processor| Station { processor: Some(processor), queues: vec![queue(processor)] })
        .collect();
    if !others.is_empty() {
        stations.push(Station { processor: None, queues: others.into_iter().map(queue).collect() });
    }
    stations
}

/// How many processors a list like `0-3,6` names; `None` if it is none, or has gaps: then numbers are no places.
fn count(list: &str) -> Option<usize> {
    let mut next = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first != next || last < first {
            return None;
        }
        next = last.checked_add(1)?;
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!((count("0"), count("0-3\n"), count("0-1,2-7")), (Some(1), Some(4), Some(8)));
        assert_eq!((count(""), count("0,2"), count("1-2"), count("3-0"), count("0-x")), (None, None, None, None, None));
    }

    #[test]
    fn every_queue_is_served() {
        let stations = assign(4, |processor| processor % 2 == 1);
        let places: Vec<_> = stations.iter().map(|station| (station.processor, &station.queues[..])).collect();
        let one = (Some(1), &[1][..]);
        let three = (Some(3), &[3][..]);
        assert_eq!(places, [one, one, three, three, (None, &[0, 2][..])]);
        assert_eq!(assign(1, |_| false), [Station { processor: None, queues: vec![0] }]);
        assert_eq!(assign(2, |_| true).len(), 2 * PER_PROCESSOR);
    }
}
