//! Trying again: what is worth it, and after which pause.

use std::{error::Error as StdError, time::Duration};

use aws_sdk_sqs::config::http::HttpResponse;
use tokio::time::Instant;

/// The pauses between the tries of one thing, until a deadline.
#[derive(Debug)]
pub(crate) struct Backoff {
    deadline: Instant,
    pause: Duration,
    longest: Duration,
}

impl Backoff {
    /// Begins with a pause of at most `first`; each further one may be twice as long, up to `longest`.
    pub(crate) fn until(deadline: Instant, first: Duration, longest: Duration) -> Self {
        Self { deadline, pause: first, longest }
    }

    /// Waits before the next try. False when the deadline has come first: then there is none.
    pub(crate) async fn pause(&mut self) -> bool {
        tokio::time::sleep_until(self.deadline.min(Instant::now() + jittered(self.pause))).await;
        self.pause = self.longest.min(self.pause * 2);
        Instant::now() < self.deadline
    }
}

/// Whether a failure of an AWS API may pass: no answer at all, too many requests, or a fault of theirs.
pub(crate) fn passes(response: Option<&HttpResponse>) -> bool {
    response.is_none_or(|response| response.status().as_u16() == 429 || response.status().is_server_error())
}

/// An error with everything behind it, for the log.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        chain.push_str(": ");
        chain.push_str(&next.to_string());
        cause = next.source();
    }
    chain
}

/// A delay of a queue after so many tries that were in vain (the first is 0): one second, then twice as long each time,
/// up to `longest`; "equal jitter" of a `fraction` from 0 to 1, so that what failed together does not come back together.
/// Whole seconds, as SQS wants them, and never none.
pub(crate) fn delay(tries: u32, longest: Duration, fraction: f64) -> Duration {
    let full = Duration::from_secs(1_u64.checked_shl(tries).unwrap_or(u64::MAX)).min(longest);
    let jittered = full.mul_f64(0.5 + fraction.clamp(0.0, 1.0) / 2.0);
    Duration::from_secs(jittered.as_secs() + u64::from(0 < jittered.subsec_nanos())).min(longest)
}

/// A random fraction, from 0 to 1.
pub(crate) fn fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

/// "Full jitter": between nothing and the pause.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(900);

    #[test]
    fn delays_grow_up_to_the_longest_and_stay_there_however_often_it_was_tried() {
        let longest_delays: Vec<_> = (0..12).map(|tries| delay(tries, LONGEST, 1.0).as_secs()).collect();
        assert_eq!(longest_delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        for tries in [63, 64, 65, 1_000, u32::MAX] {
            assert_eq!(delay(tries, LONGEST, 1.0), LONGEST);
        }
    }

    #[test]
    fn delays_are_spread_over_their_upper_half_and_are_whole_seconds_of_which_there_is_one_at_least() {
        for tries in 0..20 {
            let (least, most) = (delay(tries, LONGEST, 0.0), delay(tries, LONGEST, 1.0));
            assert!(Duration::from_secs(1) <= least && least <= most && most <= least * 2, "{tries}");
            for fraction in [0.001, 0.4, 0.999] {
                let delay = delay(tries, LONGEST, fraction);
                assert!(least <= delay && delay <= most && delay.subsec_nanos() == 0, "{tries}: {delay:?}");
            }
        }
    }

    #[tokio::test]
    async fn pauses_end_with_the_deadline() {
        let end = Instant::now() + Duration::from_millis(60);
        let mut backoff = Backoff::until(end, Duration::from_micros(10), Duration::from_millis(2));
        let mut tries = 1;
        while backoff.pause().await {
            assert!(Instant::now() < end);
            tries += 1;
        }
        assert!(end <= Instant::now());
        assert!(1 < tries, "there was time for more than one");
        assert!(!backoff.pause().await, "and there is none now");
    }
}
