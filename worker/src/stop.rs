//! Requests to stop, and the clocks that make them.
//!
//! The first request counts. A tool that gets a second interrupt gives up at once and loses what it
//! did, so later requests change nothing: the grace is always whole.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use gantry_spool::{BootTime, StopReason};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::spool::awaitable;

/// Rings once, at an instant of the boot-time clock, which goes on while the host sleeps.
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    pub(crate) fn after(delay: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        let now = Duration::from_nanos(BootTime::now().0);
        let at = now.saturating_add(delay);
        let it_value = Timespec {
            tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at.subsec_nanos()),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval, it_value };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(Self(awaitable(timer)?))
    }

    /// Resolves at the instant and at once ever after. Cancel safe.
    pub(crate) async fn rings(&self) {
        match self.0.readable().await {
            // Dropped without being cleared, the readiness stays.
            Ok(guard) => drop(guard),
            Err(_) => std::future::pending().await,
        }
    }
}

/// What a running session must heed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopping {
    /// Interrupt the tool, once.
    Requested(StopReason),
    /// Kill what is left.
    GraceOver,
}

/// Waits for the first reason to stop, and remembers it.
pub(crate) struct Stops {
    terminate: Signal,
    interrupt: Signal,
    timeout: Alarm,
    grace: Duration,
    reason: Option<StopReason>,
    grace_over: Option<Alarm>,
}

impl Stops {
    /// From here on signals are taken; the run timeout counts from now.
    pub(crate) fn new(run_timeout: Duration, grace: Duration) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            timeout: Alarm::after(run_timeout)?,
            grace,
            reason: None,
            grace_over: None,
        })
    }

    pub(crate) const fn grace(&self) -> Duration {
        self.grace
    }

    /// Why the stage is being stopped, if it is.
    pub(crate) const fn reason(&self) -> Option<StopReason> {
        self.reason
    }

    /// Resolves at the first request; once there was one, never again. Cancel safe.
    pub(crate) async fn requested(&mut self) -> StopReason {
        if self.reason.is_some() {
            // Later signals are taken by the handlers and change nothing.
            return std::future::pending().await;
        }
        let reason = tokio::select! {
            Some(()) = self.terminate.recv() => StopReason::Asked,
            Some(()) = self.interrupt.recv() => StopReason::Asked,
            () = self.timeout.rings() => StopReason::RunTimeout,
        };
        self.reason = Some(reason);
        self.grace_over = Alarm::after(self.grace).ok();
        reason
    }

    /// The first request, if it has come since anybody looked.
    pub(crate) async fn newly_requested(&mut self) -> Option<StopReason> {
        tokio::select! {
            biased;
            reason = self.requested() => Some(reason),
            () = tokio::task::yield_now() => None,
        }
    }

    /// The first request, then the end of the grace, again and again. Cancel safe.
    pub(crate) async fn next(&mut self) -> Stopping {
        if self.reason.is_none() {
            Stopping::Requested(self.requested().await)
        } else {
            self.grace_over().await;
            Stopping::GraceOver
        }
    }

    /// Resolves when the grace after the first request is over. Cancel safe.
    pub(crate) async fn grace_over(&self) {
        match (&self.grace_over, self.reason) {
            (Some(alarm), _) => alarm.rings().await,
            // Without a clock there is no grace.
            (None, Some(_)) => {}
            (None, None) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_and_goes_on_ringing() {
        let alarm = Alarm::after(Duration::from_millis(1)).unwrap();
        alarm.rings().await;
        alarm.rings().await;
    }

    #[tokio::test]
    async fn a_run_timeout_is_said_once() {
        let mut stops = Stops::new(Duration::from_millis(1), Duration::from_millis(1)).unwrap();
        assert_eq!(stops.requested().await, StopReason::RunTimeout);
        assert_eq!(stops.newly_requested().await, None);
        assert_eq!(stops.reason(), Some(StopReason::RunTimeout));
        stops.grace_over().await;
    }
}
