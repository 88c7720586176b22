//! The proof of a pool by its key's signature, and how much work a stranger can make of it.
//!
//! A signature is looked at only under the certificate of a pool that there is and a challenge that we
//! made, by two threads at most, and not for an address that has sent many wrong ones lately.

use std::net::IpAddr;

use gantry_model::PoolId;
use gantry_protocol::poll::{Code, Opening, Proof};
use gantry_protocol::{Digest, PublicKey};
use openssl::error::ErrorStack;
use tokio::sync::Semaphore;

use super::challenges::Challenges;
use crate::rate::Rate;

/// How many signatures are checked at the same time.
const AT_ONCE: usize = 2;
/// How many wait for that. All of a fleet may come back at once; what is too much tries again.
const WAITING: usize = 1024;

/// How many wrong signatures an address may send at once. Many hosts may share one.
const WRONG: u32 = 30;
/// One more that often, in milliseconds.
const WRONG_EVERY_MS: u64 = 1_000;
/// How many addresses are remembered.
const ADDRESSES: usize = 10_000;

/// Checks proofs.
pub(super) struct Proofs {
    authority: Digest,
    challenges: Challenges,
    places: Semaphore,
    waiting: Semaphore,
    wrong: Rate<IpAddr>,
}

impl Proofs {
    pub(super) fn new(authority: Digest) -> Result<Self, ErrorStack> {
        Ok(Self {
            authority,
            challenges: Challenges::new()?,
            places: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(WAITING),
            wrong: Rate::new(WRONG, WRONG_EVERY_MS, ADDRESSES),
        })
    }

    /// What is to be signed.
    pub(super) fn challenge(&self) -> Result<String, ErrorStack> {
        self.challenges.issue()
    }

    /// Whether the proof is one of the pool with this key, and was not used before.
    pub(super) async fn check(
        &self,
        opening: &Opening,
        proof: &Proof,
        (pool, key): (PoolId, PublicKey),
        (from, now_ms): (IpAddr, u64),
    ) -> Result<(), Code> {
        let from = network(from);
        if self.wrong.wait_ms(&from, now_ms).is_some() {
            return Err(Code::TooMany);
        }
        // None of ours, or too old: the next one may do.
        let nonce = self.challenges.recognise(&proof.challenge).ok_or(Code::Prove)?;
        let _waiting = self.waiting.try_acquire().map_err(|_| Code::Busy)?;
        let _place = self.places.acquire().await.map_err(|_| Code::Busy)?;
        let bytes = opening.proven(&self.authority, pool, &proof.challenge);
        let signature = proof.signature.clone();
        // A large key takes so long that others would notice.
        let checked = tokio::task::spawn_blocking(move || key.verify_pss(&bytes, &signature));
        match checked.await {
            Ok(Ok(())) if self.challenges.redeem(nonce) => Ok(()),
            Ok(Ok(())) => Err(Code::Prove),
            Ok(Err(_)) => {
                self.wrong.take(from, now_ms);
                Err(Code::NotAdmitted)
            }
            Err(_) => Err(Code::Busy),
        }
    }
}

/// Whoever has an IPv6 address has very many of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or_else(
            || {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            },
            IpAddr::V4,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_network_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
