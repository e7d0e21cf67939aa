//! Exact sliding windows.

use std::time::Duration;

use super::{Call, Redis, keys};
use crate::{
    domain::rates::Rates,
    error::{Error, Result},
};

impl Redis {
    /// Counts one call of `kind` by `subject`, an address or an account.
    ///
    /// # Errors
    /// [`Error::Throttled`] with the exact time to wait; [`Error::Unavailable`] if Redis is away, so that nobody gets
    /// free guesses at passwords then.
    pub async fn throttle(&self, kind: &'static str, subject: &str, rates: &Rates) -> Result<()> {
        let keys: Vec<_> = rates.iter().map(|rate| keys::throttle(kind, subject, rate)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let call = limits(Call::of(&self.scripts.throttle, keys), rates);
        refuse(self.run(call, "counting a call").await?)
    }
}

/// The arguments that `pass` of `window.lua` takes for each window.
pub(super) fn limits<'a>(call: Call<'a>, rates: &Rates) -> Call<'a> {
    rates.iter().fold(call, |call, rate| call.arg(rate.count()).arg(rate.window().as_micros().to_string()))
}

pub(super) fn refuse(wait_us: u64) -> Result<()> {
    match wait_us {
        0 => Ok(()),
        _ => Err(Error::Throttled { retry_after: Duration::from_micros(wait_us) }),
    }
}
