//! One piece of work for each of many items, on a few threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// More threads than this only wait for the disk.
const THREADS_MAX: usize = 8;
/// Items per thread below which starting one costs more than it brings.
const ITEMS_PER_THREAD: usize = 16;

/// Does `work` for each item; the results in the order of the items. Who is done with one takes the next, so that large and small ones may be mixed.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (items.len() / ITEMS_PER_THREAD).clamp(1, cores.min(THREADS_MAX));
    if threads == 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take)).collect();
        let mut done = take();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_each_once() {
        for count in [0, 1, ITEMS_PER_THREAD, 10 * ITEMS_PER_THREAD * THREADS_MAX] {
            let items: Vec<usize> = (0..count).collect();
            let doubled = in_parallel(&items, |item| item * 2);
            assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
