//! How often somebody may do something: so many times at once, then one in a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// A bucket of turns for each key.
#[derive(Debug)]
pub struct Rate<K> {
    /// How many turns a full bucket has.
    burst: u32,
    /// One more comes so often, in milliseconds.
    every_ms: u64,
    /// How many buckets there are at most. A full one need not be kept.
    most: usize,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    /// Up to when turns have come back.
    at: u64,
    /// How many were held back since the last turn.
    held_back: u64,
}

/// It is somebody's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// How many others of the key were held back since the last turn, if any were.
    pub held_back: Option<u64>,
}

impl<K: Hash + Eq> Rate<K> {
    /// `burst` turns at once, and one more every `every_ms`.
    #[must_use]
    pub fn new(burst: u32, every_ms: u64, most: usize) -> Self {
        Self { burst, every_ms, most, buckets: Mutex::default() }
    }

    /// Takes a turn, if there is one.
    pub fn take(&self, key: K, now_ms: u64) -> Option<Turn> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.most && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| {
                self.refill(bucket, now_ms);
                // What was held back only counts for the log: it keeps no bucket, and so no room.
                bucket.left < self.burst
            });
            if buckets.len() >= self.most {
                return None;
            }
        }
        let new = || Bucket { left: self.burst, at: now_ms, held_back: 0 };
        let bucket = buckets.entry(key).or_insert_with(new);
        self.refill(bucket, now_ms);
        if let Some(left) = bucket.left.checked_sub(1) {
            bucket.left = left;
            let held_back = std::mem::take(&mut bucket.held_back);
            Some(Turn { held_back: (held_back > 0).then_some(held_back) })
        } else {
            bucket.held_back = bucket.held_back.saturating_add(1);
            None
        }
    }

    /// In how many milliseconds there is a turn again, if there is none now.
    #[must_use]
    pub fn wait_ms(&self, key: &K, now_ms: u64) -> Option<u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get_mut(key)?;
        self.refill(bucket, now_ms);
        (bucket.left == 0).then(|| (bucket.at + self.every_ms).saturating_sub(now_ms))
    }

    fn refill(&self, bucket: &mut Bucket, now_ms: u64) {
        let back = now_ms.saturating_sub(bucket.at) / self.every_ms;
        bucket.at += back * self.every_ms;
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        bucket.left = bucket.left.saturating_add(back).min(self.burst);
        if bucket.left == self.burst {
            bucket.at = bucket.at.max(now_ms);
        }
    }
}

/// A rate for lines of the log that others cause, each by its own key: ten at once, then six a minute.
#[must_use]
pub fn of_lines<K: Hash + Eq>() -> Rate<K> {
    Rate::new(10, 10_000, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_one_in_a_while() {
        let rate = Rate::new(3, 1000, 10);
        let turn = |now| rate.take("a", now).map(|turn| turn.held_back);
        assert_eq!([0, 0, 10, 20, 999].map(turn), [Some(None), Some(None), Some(None), None, None]);
        assert_eq!(rate.wait_ms(&"a", 999), Some(1));
        assert_eq!([1000, 1001, 2000].map(turn), [Some(Some(2)), None, Some(Some(1))]);
        assert_eq!(rate.take("b", 2000), Some(Turn { held_back: None }), "others have their own");
        assert_eq!([9000, 9000, 9000, 9000].map(turn), [Some(None), Some(None), Some(None), None]);
        assert_eq!((rate.wait_ms(&"a", 10_000), rate.wait_ms(&"c", 0)), (None, None));
        // A clock that is set back holds nobody back for longer than it was.
        assert_eq!(turn(0), Some(Some(1)));
    }

    #[test]
    fn only_so_many_keys_are_kept() {
        let rate = Rate::new(1, 1000, 2);
        assert!(rate.take(1, 0).is_some() && rate.take(2, 0).is_some());
        assert_eq!(rate.take(3, 0), None);
        assert!(rate.take(3, 1000).is_some(), "full buckets go");
        assert_eq!([1, 2].map(|key| rate.take(key, 1000).is_some()), [true, false]);
        assert_eq!([1, 3].map(|key| rate.take(key, 1000)), [None, None]);
        assert!(rate.take(4, 2000).is_some(), "those that once held something back go, too");
    }
}
