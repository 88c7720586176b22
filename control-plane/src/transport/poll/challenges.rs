//! Challenges that are signed by whoever has no certificate to show, each good for one session.
//!
//! A challenge carries its own seal, so that none has to be kept before it is used: a stranger who asks
//! for many gets many, and costs us a hash each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gantry_protocol::Digest;
use openssl::error::ErrorStack;
use openssl::memcmp;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// How long a challenge is good for, by our own clock.
const LIFETIME: Duration = Duration::from_mins(1);

/// How many used ones are kept. Each cost its sender a signature with an admitted pool's key.
const MAX_USED: usize = 200_000;

const NONCE: usize = 16;
const TIME: usize = 8;
const SEAL: usize = 32;

/// A challenge of ours that is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Nonce([u8; NONCE]);

/// Makes challenges and knows them again.
pub(super) struct Challenges {
    /// Made at the start and never written: a challenge does not outlive this process.
    key: Zeroizing<[u8; 32]>,
    began: Instant,
    used: Mutex<HashMap<Nonce, Instant>>,
}

impl Challenges {
    pub(super) fn new() -> Result<Self, ErrorStack> {
        let mut key = Zeroizing::new([0; 32]);
        openssl::rand::rand_bytes(&mut *key)?;
        Ok(Self { key, began: Instant::now(), used: Mutex::default() })
    }

    /// A new one.
    pub(super) fn issue(&self) -> Result<String, ErrorStack> {
        let mut nonce = [0; NONCE];
        openssl::rand::rand_bytes(&mut nonce)?;
        let age = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let time = age.to_be_bytes();
        let seal = self.seal(&nonce, time);
        let bytes = [nonce.as_slice(), time.as_slice(), seal.as_slice()].concat();
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The one that this text is, if we made it and it is still good.
    pub(super) fn recognise(&self, text: &str) -> Option<Nonce> {
        let bytes = URL_SAFE_NO_PAD.decode(text.get(..128).unwrap_or(text)).ok()?;
        let (nonce, rest) = bytes.split_first_chunk::<NONCE>()?;
        let (time, seal) = rest.split_first_chunk::<TIME>()?;
        let is_ours = seal.len() == SEAL && memcmp::eq(seal, &self.seal(nonce, *time));
        let issued = Duration::from_millis(u64::from_be_bytes(*time));
        let age = self.began.elapsed().checked_sub(issued)?;
        (is_ours && age <= LIFETIME).then_some(Nonce(*nonce))
    }

    /// Uses it up. False if it was used before, or too many were.
    pub(super) fn redeem(&self, nonce: Nonce) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if used.len() >= MAX_USED {
            used.retain(|_, at| now.duration_since(*at) <= LIFETIME);
            if used.len() >= MAX_USED {
                return false;
            }
        }
        used.insert(nonce, now).is_none()
    }

    /// Only we can tell or make it: the key stands on either side of what is sealed, whose length never
    /// changes.
    fn seal(&self, nonce: &[u8; NONCE], time: [u8; TIME]) -> [u8; SEAL] {
        let mut text = Zeroizing::new(Vec::with_capacity(2 * self.key.len() + NONCE + TIME));
        text.extend_from_slice(&*self.key);
        text.extend_from_slice(nonce);
        text.extend_from_slice(&time);
        text.extend_from_slice(&*self.key);
        *Digest::of(&text).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_challenge_is_good_once_and_for_a_minute() {
        let challenges = Challenges::new().unwrap();
        let text = challenges.issue().unwrap();
        let nonce = challenges.recognise(&text).unwrap();
        assert!(challenges.redeem(nonce));
        assert!(!challenges.redeem(nonce), "it was used");
        let other = challenges.issue().unwrap();
        assert_ne!(challenges.recognise(&other), Some(nonce));
        tokio::time::advance(LIFETIME + Duration::from_secs(1)).await;
        assert_eq!(challenges.recognise(&other), None, "too late");
    }

    #[tokio::test]
    async fn only_our_own_challenges_count() {
        let (ours, theirs) = (Challenges::new().unwrap(), Challenges::new().unwrap());
        let text = ours.issue().unwrap();
        assert_eq!(theirs.recognise(&text), None);
        for (place, _) in text.char_indices() {
            let with = if &text[place..=place] == "A" { "B" } else { "A" };
            let mut changed = text.clone();
            changed.replace_range(place..=place, with);
            // The last character has bits that stand for nothing, and then the text is none.
            assert_eq!(ours.recognise(&changed), None, "{place}");
        }
        for wrong in ["", "x", &text[1..], &format!("{text}A"), &"A".repeat(100_000)] {
            assert_eq!(ours.recognise(wrong), None);
        }
    }
}
