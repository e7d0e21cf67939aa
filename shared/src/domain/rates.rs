//! Rates, as the configuration spells them: `10/second`, `1/second,30/minute`, `unlimited`.

use std::{fmt, net::IpAddr, num::NonZeroU32, time::Duration};

use super::Invalid;

/// The span of time that a rate counts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// One second.
    Second,
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
    /// 30 days.
    Month,
    /// 365 days.
    Year,
}

impl Unit {
    fn parse(raw: &str) -> Option<Self> {
        Some(match raw {
            "second" => Self::Second,
            "minute" => Self::Minute,
            "hour" => Self::Hour,
            "day" => Self::Day,
            "month" => Self::Month,
            "year" => Self::Year,
            _ => return None,
        })
    }

    /// The unit as the configuration spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// How long it is.
    pub const fn duration(self) -> Duration {
        const DAY_SECONDS: u64 = 24 * 60 * 60;
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 60 * 60,
            Self::Day => DAY_SECONDS,
            Self::Month => 30 * DAY_SECONDS,
            Self::Year => 365 * DAY_SECONDS,
        })
    }
}

/// At most `count` in any window of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    unit: Unit,
}

impl Rate {
    /// The largest count. The window is exact, so Redis keeps a time for each call in it.
    pub const MOST: u32 = 10_000;

    fn parse(raw: &str) -> Option<Self> {
        let (count, unit) = raw.trim().split_once('/')?;
        let count = count.trim().parse().ok().filter(|count: &NonZeroU32| count.get() <= Self::MOST)?;
        Some(Self { count, unit: Unit::parse(unit.trim())? })
    }

    /// How many fit into the window.
    pub const fn count(self) -> u32 {
        self.count.get()
    }

    /// The length of the window.
    pub const fn window(self) -> Duration {
        self.unit.duration()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.as_str())
    }
}

/// Rates that hold together; none at all means unlimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates(Vec<Rate>);

impl Rates {
    /// Parses `<n>/<second|minute|hour|day|month|year>`, several with commas, or `unlimited`. `n` is 1–10,000.
    pub fn parse(raw: &str) -> Result<Self, Invalid> {
        if raw.trim() == "unlimited" {
            return Ok(Self(Vec::new()));
        }
        let rates: Option<Vec<Rate>> = raw.split(',').map(Rate::parse).collect();
        rates.map(Self).ok_or(Invalid::because("must be like 10/second, or 1/second,30/minute, or unlimited"))
    }

    /// The same windows, `factor` times as wide (up to [`Rate::MOST`]).
    pub fn widened(&self, factor: NonZeroU32) -> Self {
        let wider = |rate: &Rate| Rate {
            count: rate.count.saturating_mul(factor).min(NonZeroU32::new(Rate::MOST).unwrap_or(rate.count)),
            unit: rate.unit,
        };
        Self(self.0.iter().map(wider).collect())
    }

    /// The single rates.
    pub fn iter(&self) -> impl Iterator<Item = Rate> + '_ {
        self.0.iter().copied()
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("unlimited");
        }
        for (index, rate) in self.0.iter().enumerate() {
            if 0 < index {
                f.write_str(",")?;
            }
            rate.fmt(f)?;
        }
        Ok(())
    }
}

/// The address that a throttle counts: an IPv6 customer has a /64 at least, so one address of it says nothing. An IPv4
/// address counts as one also where it is written as IPv6.
pub fn throttled_address(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_an_ipv6_network_share_a_window_and_two_ipv4_addresses_never_do() {
        let window = |address: &str| throttled_address(address.parse().expect("is an address"));
        assert_eq!(window("2001:db8:1:2::1"), window("2001:db8:1:2:ffff::9"));
        assert_ne!(window("2001:db8:1:2::1"), window("2001:db8:1:3::1"));
        assert_eq!(window("192.0.2.7"), "192.0.2.7");
        assert_eq!(window("::ffff:192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (raw, expected) in [
            ("10/second", "10/second"),
            (" 1 / second , 30/minute ", "1/second,30/minute"),
            ("10000/year", "10000/year"),
            ("unlimited", "unlimited"),
        ] {
            assert_eq!(Rates::parse(raw).map(|rates| rates.to_string()), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for raw in [
            "",
            "10",
            "/second",
            "0/second",
            "-1/second",
            "10/seconds",
            "10/second,",
            "10001/day",
            "1/second;2/minute",
            "ten/day",
        ] {
            assert!(Rates::parse(raw).is_err(), "{raw:?} was taken");
        }
    }

    #[test]
    fn a_widened_rate_keeps_its_unit() {
        let ten = NonZeroU32::new(10).expect("ten is not zero");
        let widened = |raw: &str| Rates::parse(raw).map(|rates| rates.widened(ten).to_string());
        assert_eq!(widened("1/second,30/minute"), Ok("10/second,300/minute".into()));
        assert_eq!(widened("unlimited"), Ok("unlimited".into()));
        assert_eq!(widened("5000/day"), Ok("10000/day".into()));
    }
}
