//! Objects in memory, for tests: the same promises, and it can be told to fail.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Listed, MAX_LIST, Objects, ObjectsError, check_key};

/// Objects in memory. Clones are the same store. Its urls lead nowhere.
#[derive(Clone, Default)]
pub struct FakeObjects {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    objects: Mutex<BTreeMap<String, Bytes>>,
    is_failing: AtomicBool,
}

impl FakeObjects {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes everything but signing fail until it is set back.
    pub fn fail(&self, is_failing: bool) {
        self.inner.is_failing.store(is_failing, Ordering::SeqCst);
    }

    /// Does what the holder of an url from [`Objects::presign_put`] or [`Objects::presign_get`] could
    /// do: returns the key that the url is for.
    #[must_use]
    pub fn key_of_url(url: &str) -> Option<&str> {
        url.strip_prefix("fake://objects/")?.split('?').next()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.inner.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, act: &'static str, key: &str) -> Result<(), ObjectsError> {
        if self.inner.is_failing.load(Ordering::SeqCst) {
            return Err(ObjectsError::Failed {
                act,
                key: key.to_owned(),
                source: "told to".into(),
            });
        }
        check_key(key)
    }

    fn find(&self, key: &str) -> Result<Bytes, ObjectsError> {
        self.check("get", key)?;
        let found = self.objects().get(key).cloned();
        found.ok_or_else(|| ObjectsError::NotFound { key: key.to_owned() })
    }

    fn insert(&self, key: &str, bytes: Bytes) -> Result<(), ObjectsError> {
        self.check("put", key)?;
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(ObjectsError::Exists { key: key.to_owned() });
        }
        objects.insert(key.to_owned(), bytes);
        Ok(())
    }
}

impl Objects for FakeObjects {
    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), ObjectsError>> {
        Box::pin(async move { self.insert(key, bytes) })
    }

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, ObjectsError>> {
        Box::pin(async move {
            let found = self.find(key)?;
            if found.len() as u64 > limit {
                return Err(ObjectsError::TooLarge { key: key.to_owned(), limit });
            }
            Ok(found)
        })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytes, ObjectsError>> {
        Box::pin(async move {
            let found = self.find(key)?;
            let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(found.len());
            let (start, end) = (within(range.start), within(range.end));
            Ok(found.slice(start..end.max(start)))
        })
    }

    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>, ObjectsError>> {
        Box::pin(async move {
            self.check("look at", key)?;
            Ok(self.objects().get(key).map(|bytes| bytes.len() as u64))
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ObjectsError>> {
        Box::pin(async move {
            self.check("delete", key)?;
            self.objects().remove(key);
            Ok(())
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, ObjectsError>> {
        Box::pin(async move {
            self.check("list", "a")?;
            let objects = self.objects();
            let wanted = objects
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
            Ok(wanted
                .take(limit.min(MAX_LIST))
                .map(|(key, bytes)| Listed { key: key.clone(), size: bytes.len() as u64 })
                .collect())
        })
    }

    fn presign_get<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            Ok(format!("fake://objects/{key}?get&ttl={}", ttl.as_secs()))
        })
    }

    fn presign_put<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, ObjectsError>> {
        Box::pin(async move {
            check_key(key)?;
            Ok(format!("fake://objects/{key}?put&ttl={}", ttl.as_secs()))
        })
    }
}
