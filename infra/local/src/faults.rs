//! Faults that a test switches on and off at run time, by `PUT /faults` on the control API.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The faults that are on. Reading costs one atomic load while there are none. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    any: AtomicBool,
    set: RwLock<Arc<FaultSet>>,
}

impl Faults {
    /// The faults that are on, or none.
    pub fn current(&self) -> Option<Arc<FaultSet>> {
        if !self.0.any.load(Ordering::Acquire) {
            return None;
        }
        Some(Arc::clone(&self.0.set.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Replaces all faults; [`FaultSet::default`] clears them.
    pub fn set(&self, set: FaultSet) {
        let any = set != FaultSet::default();
        *self.0.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
        self.0.any.store(any, Ordering::Release);
    }
}

/// The body of `PUT /faults`. Everything is optional, and what is absent is off.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultSet {
    /// `$disconnect` is never invoked, as AWS may also fail to.
    pub drop_disconnect: bool,
    /// What happens to calls of `@connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management: Option<ManagementFault>,
    /// What happens in the queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqs: Option<SqsFault>,
    /// Kill a function in the middle of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<KillFault>,
    /// Start a function's calls late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_invoke_ms: Option<InvokeDelay>,
}

/// Faults of `@connections`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagementFault {
    /// The status to answer with instead of doing what was asked, such as 410, 429 or 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The share of the calls, 0 to 1, that get `status`.
    pub share: f64,
    /// Milliseconds before any answer.
    pub delay_ms: u64,
    /// The share of the posts, 0 to 1, that are answered 200 although the client gets nothing.
    pub silent_share: f64,
}

impl Default for ManagementFault {
    fn default() -> Self {
        Self { status: None, share: 1.0, delay_ms: 0, silent_share: 0.0 }
    }
}

/// Faults of SQS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqsFault {
    /// The share of the requests, 0 to 1, that are answered 503 and do nothing.
    pub refuse_share: f64,
    /// The share of the messages, 0 to 1, that are received twice, although the first receiver deletes them.
    pub duplicate_share: f64,
    /// Milliseconds before a request is looked at.
    pub delay_ms: u64,
}

/// Kills instances of one function in mid-call.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KillFault {
    /// The function's name.
    pub function: String,
    /// The share of its calls, 0 to 1.
    #[serde(default = "always")]
    pub share: f64,
    /// Milliseconds after the function was given the call.
    #[serde(default)]
    pub after_ms: u64,
}

/// Delays the calls of one function.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InvokeDelay {
    /// The function's name.
    pub function: String,
    /// Milliseconds between the call and its start.
    pub ms: u64,
}

fn always() -> f64 {
    1.0
}

impl FaultSet {
    /// How long to let a call of this function live, if it is one to be killed.
    pub fn kill_after(&self, function: &str) -> Option<Duration> {
        let kill = self.kill.as_ref().filter(|kill| kill.function == function && hits(kill.share))?;
        Some(Duration::from_millis(kill.after_ms))
    }

    /// How long to hold back a call of this function.
    pub fn invoke_delay(&self, function: &str) -> Option<Duration> {
        let delay = self.delay_invoke_ms.as_ref().filter(|delay| delay.function == function)?;
        Some(Duration::from_millis(delay.ms))
    }
}

/// Draws whether one call of many is hit, when `share` (0 to 1) of them are to be.
pub fn hits(share: f64) -> bool {
    if share >= 1.0 {
        return true;
    }
    let drawn = getrandom::u32().expect("the system has random numbers");
    f64::from(drawn) < share * f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_faults_are_read_as_none_and_an_empty_object_clears_them() {
        let faults = Faults::default();
        assert_eq!(faults.current(), None);
        faults.set(serde_json::from_str(r#"{"drop_disconnect": true}"#).expect("valid"));
        assert!(faults.current().expect("set").drop_disconnect);
        faults.set(serde_json::from_str("{}").expect("valid"));
        assert_eq!(faults.current(), None);
    }

    #[test]
    fn a_misspelt_fault_is_an_error_and_not_no_fault() {
        let error = serde_json::from_str::<FaultSet>(r#"{"drop_disconect": true}"#).expect_err("misspelt");
        assert!(error.to_string().contains("drop_disconect"), "{error}");
    }

    #[test]
    fn a_kill_concerns_its_own_function_and_its_share_of_the_calls() {
        let set: FaultSet =
            serde_json::from_str(r#"{"kill": {"function": "message", "share": 0.5, "after_ms": 7}}"#)
                .expect("valid");
        assert_eq!(set.kill_after("rooms"), None);
        let killed =
            (0..2_000).filter(|_| set.kill_after("message") == Some(Duration::from_millis(7))).count();
        assert!((800..1_200).contains(&killed), "{killed} of 2000");
    }

    #[test]
    fn a_share_of_one_hits_always_and_a_share_of_zero_never() {
        assert!((0..1_000).all(|_| hits(1.0)));
        assert!(!(0..1_000).any(|_| hits(0.0)));
    }
}
