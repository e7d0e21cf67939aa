//! What the environment tells a function, read once at start into typed sections.
//!
//! A function names the sections that it needs. An absent or bad variable is named in the error, and the function does
//! not start; only a throttle that cannot be read falls back to its default, with a warning.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::domain::{rates::Rates, users::UserId};

/// A variable that keeps a function from starting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// The variable has no default and is not set.
    #[error("{0} is not set")]
    Absent(&'static str),
    /// The variable is set to something that cannot be used. The value itself may be a secret and is not repeated.
    #[error("{variable} {reason}")]
    Bad {
        /// The variable.
        variable: &'static str,
        /// What it must be.
        reason: String,
    },
}

/// Where variables come from: the process, or a table in a test.
pub struct Environment {
    lookup: Lookup,
}

type Lookup = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
        Self { lookup: Box::new(|name| std::env::var(name).ok()) }
    }

    /// Variables from a table.
    pub fn of_table<const N: usize>(table: [(&'static str, &'static str); N]) -> Self {
        Self {
            lookup: Box::new(move |name| {
                table.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            }),
        }
    }

    /// Reads one section.
    ///
    /// # Errors
    /// The first variable of the section that is absent or bad.
    pub fn section<S: Section>(&self) -> Result<S, ConfigurationError> {
        S::read(self)
    }

    /// An empty value counts as absent: that is what a template parameter with an empty default becomes.
    fn text(&self, variable: &'static str) -> Option<String> {
        (self.lookup)(variable).filter(|value| !value.is_empty())
    }

    fn required(&self, variable: &'static str) -> Result<String, ConfigurationError> {
        self.text(variable).ok_or(ConfigurationError::Absent(variable))
    }

    fn number<T: FromStr + PartialOrd + fmt::Display + Copy>(
        &self,
        variable: &'static str,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<T, ConfigurationError> {
        let Some(raw) = self.text(variable) else { return Ok(default) };
        raw.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| ConfigurationError::Bad {
            variable,
            reason: format!("must be a whole number from {} to {}", range.start(), range.end()),
        })
    }

    fn switch(&self, variable: &'static str) -> Result<bool, ConfigurationError> {
        match self.text(variable).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(bad(variable, "must be true or false")),
        }
    }

    fn rates(&self, variable: &'static str, default: &'static str) -> Rates {
        let parse_default = || Rates::parse(default).expect("the default is a rate");
        let Some(raw) = self.text(variable) else { return parse_default() };
        Rates::parse(&raw).unwrap_or_else(|invalid| {
            tracing::warn!(variable, %invalid, default, "a throttle cannot be read; the default holds");
            parse_default()
        })
    }
}

fn bad(variable: &'static str, reason: &str) -> ConfigurationError {
    ConfigurationError::Bad { variable, reason: reason.to_owned() }
}

/// A part of the configuration that a function may need.
pub trait Section: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that is absent or bad.
    fn read(environment: &Environment) -> Result<Self, ConfigurationError>;
}

/// How Postgres is reached.
pub struct PostgresSection {
    /// `DATABASE_URL`.
    pub options: sqlx::postgres::PgConnectOptions,
}

impl Section for PostgresSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        const VARIABLE: &str = "DATABASE_URL";
        let options = environment.required(VARIABLE)?.parse();
        let options = options.map_err(|_| bad(VARIABLE, "must be a postgres:// URL"))?;
        Ok(Self { options })
    }
}

/// How Redis is reached.
pub struct RedisSection {
    /// `REDIS_URL`: `redis://` or `rediss://`.
    pub connection: redis::ConnectionInfo,
    /// `REDIS_CLUSTER`: whether to speak the cluster protocol.
    pub cluster: bool,
    /// What `REDIS_CA_FILE` holds: whom to trust instead of the system's roots. At least one certificate, as PEM.
    pub authorities: Option<Vec<u8>>,
    /// `HISTORY_IDLE_DAYS`: for how long a room stays after its last use.
    pub room_lifetime: Duration,
}

impl Section for RedisSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        const VARIABLE: &str = "REDIS_URL";
        let connection = redis::IntoConnectionInfo::into_connection_info(environment.required(VARIABLE)?);
        let connection = connection.map_err(|_| bad(VARIABLE, "must be a redis:// or rediss:// URL"))?;
        let cluster = environment.switch("REDIS_CLUSTER")?;
        let days = environment.number("HISTORY_IDLE_DAYS", 30, 15..=365)?;
        Ok(Self {
            connection,
            cluster,
            authorities: read_authorities(environment)?,
            // More than the 14 days that the queue keeps what is on its way to Postgres.
            room_lifetime: Duration::from_secs(days * 24 * 60 * 60),
        })
    }
}

/// Checked here, because the client would take a file without any certificate and trust nobody from then on.
fn read_authorities(environment: &Environment) -> Result<Option<Vec<u8>>, ConfigurationError> {
    const VARIABLE: &str = "REDIS_CA_FILE";
    let Some(path) = environment.text(VARIABLE) else { return Ok(None) };
    let pem = std::fs::read(path).map_err(|error| bad(VARIABLE, &format!("cannot be read: {error}")))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates =
        certificates.map_err(|error| bad(VARIABLE, &format!("holds no valid PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(bad(VARIABLE, "holds no certificate"));
    }
    let mut trusted = RootCertStore::empty();
    for certificate in certificates {
        trusted
            .add(certificate)
            .map_err(|error| bad(VARIABLE, &format!("holds a certificate that cannot be read: {error}")))?;
    }
    Ok(Some(pem))
}

/// Where connections are posted to.
pub struct PushSection {
    /// `CONNECTIONS_URL`: `https://{api}.execute-api.{region}.amazonaws.com/{stage}`.
    pub connections_url: String,
    /// `PUSH_BUDGET_MS`: how long pushes may delay an ack.
    pub budget: Duration,
}

impl Section for PushSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        const VARIABLE: &str = "CONNECTIONS_URL";
        let url = environment.required(VARIABLE)?;
        if !is_web_address(&url) {
            return Err(bad(VARIABLE, "must be an https:// URL"));
        }
        let budget = environment.number("PUSH_BUDGET_MS", 1_000, 1..=10_000)?;
        Ok(Self {
            connections_url: url.trim_end_matches('/').to_owned(),
            budget: Duration::from_millis(budget),
        })
    }
}

/// Where acknowledged events are queued.
pub struct ArchiveQueueSection {
    /// `ARCHIVE_QUEUE_URL`.
    pub url: String,
}

impl Section for ArchiveQueueSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        Ok(Self { url: queue_url(environment, "ARCHIVE_QUEUE_URL")? })
    }
}

/// Where records go that can never be stored.
pub struct DeadLetterSection {
    /// `ARCHIVE_DEAD_LETTER_QUEUE_URL`.
    pub url: String,
}

impl Section for DeadLetterSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        Ok(Self { url: queue_url(environment, "ARCHIVE_DEAD_LETTER_QUEUE_URL")? })
    }
}

/// How a frame gets to many.
pub struct FanoutSection {
    /// `FANOUT_QUEUE_URL`.
    pub queue_url: String,
    /// `FANOUT_DIRECT`: to so many receivers a function posts by itself; also how many one slice of a bigger room has.
    pub direct: usize,
}

impl FanoutSection {
    /// The largest `FANOUT_DIRECT`: with so many receivers a slice still fits into a message of 256 KiB.
    pub const MOST_DIRECT: usize = 2_000;
}

impl Section for FanoutSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        let queue_url = queue_url(environment, "FANOUT_QUEUE_URL")?;
        Ok(Self { queue_url, direct: environment.number("FANOUT_DIRECT", 500, 1..=Self::MOST_DIRECT)? })
    }
}

/// How much of a conversation Redis holds.
pub struct HistorySection {
    /// `HISTORY_HOT`: to about so many events a room's log is trimmed.
    pub hot: usize,
}

impl Section for HistorySection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        Ok(Self { hot: environment.number("HISTORY_HOT", 10_000, 1..=1_000_000)? })
    }
}

fn queue_url(environment: &Environment, variable: &'static str) -> Result<String, ConfigurationError> {
    environment.required(variable).and_then(|url| match is_web_address(&url) {
        true => Ok(url),
        false => Err(bad(variable, "must be an https:// URL")),
    })
}

/// `http://` is for the local AWS.
fn is_web_address(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

/// How long sessions last.
pub struct SessionSection {
    /// `SESSION_DAYS`: how long a session lives after its last use.
    pub lifetime: Duration,
}

impl Section for SessionSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        const DAY_SECONDS: u64 = 24 * 60 * 60;
        let days = environment.number("SESSION_DAYS", 7_u64, 1..=365)?;
        Ok(Self { lifetime: Duration::from_secs(days * DAY_SECONDS) })
    }
}

/// Throttles of the HTTP API.
pub struct HttpThrottleSection {
    /// `HTTP_THROTTLE`: sign-up and log-in, per address and per account.
    pub rates: Rates,
}

impl Section for HttpThrottleSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        Ok(Self { rates: environment.rates("HTTP_THROTTLE", "20/minute") })
    }
}

/// Throttles of the WebSocket API.
pub struct WebsocketThrottleSection {
    /// `WEBSOCKET_THROTTLE`: frames that are logged, per user.
    pub rates: Rates,
}

impl Section for WebsocketThrottleSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        Ok(Self { rates: environment.rates("WEBSOCKET_THROTTLE", "10/second") })
    }
}

/// Limits of connections.
pub struct ConnectionSection {
    /// `MAX_CONNECTIONS_PER_USER`.
    pub most_per_user: usize,
}

impl Section for ConnectionSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        Ok(Self { most_per_user: environment.number("MAX_CONNECTIONS_PER_USER", 20, 1..=1_000)? })
    }
}

/// Who may do what in this installation.
pub struct PolicySection {
    /// `ADMIN_USER_IDS`: user ids, with commas. Never e-mail addresses, which nobody has verified.
    pub admins: BTreeSet<UserId>,
    /// `ROOM_CREATION`: whether anyone may make rooms, or administrators only.
    pub anyone_makes_rooms: bool,
}

impl Section for PolicySection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        const ADMINS: &str = "ADMIN_USER_IDS";
        const CREATION: &str = "ROOM_CREATION";
        let admins = environment.text(ADMINS).unwrap_or_default();
        let admins = admins.split(',').map(str::trim).filter(|id| !id.is_empty()).map(UserId::parse);
        let admins =
            admins.collect::<Result<_, _>>().map_err(|_| bad(ADMINS, "must be user ids, with commas"))?;
        let anyone_makes_rooms = match environment.text(CREATION).as_deref() {
            None | Some("anyone") => true,
            Some("admins") => false,
            Some(_) => return Err(bad(CREATION, "must be anyone or admins")),
        };
        Ok(Self { admins, anyone_makes_rooms })
    }
}

/// How the log looks.
pub struct LogSection {
    /// `LOG_LEVEL`: `trace`, `debug`, `info`, `warn` or `error`.
    pub level: tracing::Level,
    /// `LOG_FORMAT`: one JSON object a line, or text for people.
    pub json: bool,
}

impl Section for LogSection {
    fn read(environment: &Environment) -> Result<Self, ConfigurationError> {
        const LEVEL: &str = "LOG_LEVEL";
        const FORMAT: &str = "LOG_FORMAT";
        let level = environment.text(LEVEL).unwrap_or_else(|| "info".to_owned());
        let level = level.parse().map_err(|_| bad(LEVEL, "must be trace, debug, info, warn or error"))?;
        let json = match environment.text(FORMAT).as_deref() {
            None | Some("json") => true,
            Some("text") => false,
            Some(_) => return Err(bad(FORMAT, "must be json or text")),
        };
        Ok(Self { level, json })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<S: Section, const N: usize>(table: [(&'static str, &'static str); N]) -> Option<String> {
        Environment::of_table(table).section::<S>().err().map(|error| error.to_string())
    }

    #[test]
    fn an_absent_or_bad_variable_is_named_and_its_value_is_not_repeated() {
        assert_eq!(refused::<PostgresSection, 0>([]).as_deref(), Some("DATABASE_URL is not set"));
        assert_eq!(
            refused::<RedisSection, 1>([("REDIS_URL", "hunter2")]).as_deref(),
            Some("REDIS_URL must be a redis:// or rediss:// URL")
        );
        assert_eq!(
            refused::<SessionSection, 1>([("SESSION_DAYS", "0")]).as_deref(),
            Some("SESSION_DAYS must be a whole number from 1 to 365")
        );
        assert_eq!(
            refused::<PolicySection, 1>([("ADMIN_USER_IDS", "ada@example.com")]).as_deref(),
            Some("ADMIN_USER_IDS must be user ids, with commas")
        );
        assert_eq!(
            refused::<LogSection, 1>([("LOG_FORMAT", "xml")]).as_deref(),
            Some("LOG_FORMAT must be json or text")
        );
    }

    #[test]
    fn connections_are_posted_to_an_address_with_a_host() {
        let url = |value| {
            Environment::of_table([("CONNECTIONS_URL", value)])
                .section::<PushSection>()
                .map(|section| section.connections_url)
        };
        assert_eq!(url("https://a.example/live/"), Ok("https://a.example/live".into()));
        assert_eq!(url("http://[::1]:3001/live"), Ok("http://[::1]:3001/live".into()));
        for bad in ["https://", "https:///live", "https://:443", "a.example/live", "ftp://a.example", "/live"]
        {
            assert!(url(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn queues_have_an_address_and_limits_a_range() {
        let url = ("FANOUT_QUEUE_URL", "https://sqs.example/1/fanout");
        assert_eq!(refused::<ArchiveQueueSection, 0>([]).as_deref(), Some("ARCHIVE_QUEUE_URL is not set"));
        assert_eq!(
            refused::<DeadLetterSection, 1>([("ARCHIVE_DEAD_LETTER_QUEUE_URL", "hunter2")]).as_deref(),
            Some("ARCHIVE_DEAD_LETTER_QUEUE_URL must be an https:// URL")
        );
        assert_eq!(refused::<FanoutSection, 0>([]).as_deref(), Some("FANOUT_QUEUE_URL is not set"));
        for direct in ["0", "2001", "many"] {
            assert_eq!(
                refused::<FanoutSection, 2>([url, ("FANOUT_DIRECT", direct)]).as_deref(),
                Some("FANOUT_DIRECT must be a whole number from 1 to 2000")
            );
        }
        assert_eq!(
            refused::<HistorySection, 1>([("HISTORY_HOT", "0")]).as_deref(),
            Some("HISTORY_HOT must be a whole number from 1 to 1000000")
        );
        assert_eq!(
            refused::<RedisSection, 2>([("REDIS_URL", "redis://a"), ("HISTORY_IDLE_DAYS", "14")]).as_deref(),
            Some("HISTORY_IDLE_DAYS must be a whole number from 15 to 365")
        );
        let direct = Environment::of_table([url]).section::<FanoutSection>().map(|section| section.direct);
        assert_eq!(direct, Ok(500));
        let usual = Environment::of_table([]).section::<HistorySection>();
        assert_eq!(usual.map(|section| section.hot), Ok(10_000));
    }

    #[test]
    fn a_file_of_authorities_holds_at_least_one_and_is_named_if_not() {
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let no_certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        for (content, complaint) in [
            (None, "cannot be read"),
            (Some(""), "holds no certificate"),
            (Some("nonsense"), "holds no certificate"),
            (Some(broken), "holds no valid PEM"),
            (Some(no_certificate), "holds a certificate that cannot be read"),
        ] {
            let folder = tempfile::tempdir().expect("a folder can be made");
            let path = folder.path().join("ca.pem");
            if let Some(content) = content {
                std::fs::write(&path, content).expect("the file can be written");
            }
            let path = path.to_str().expect("is text").to_owned();
            let environment = Environment {
                lookup: Box::new(move |variable| match variable {
                    "REDIS_URL" => Some("rediss://redis.example".to_owned()),
                    "REDIS_CA_FILE" => Some(path.clone()),
                    _ => None,
                }),
            };
            let told = environment.section::<RedisSection>().err().map(|error| error.to_string());
            let told = told.unwrap_or_else(|| panic!("{content:?} was taken"));
            assert!(told.starts_with(&format!("REDIS_CA_FILE {complaint}")), "{content:?}: {told}");
        }
    }

    #[test]
    fn a_throttle_that_cannot_be_read_means_the_default() {
        let rates = |value| {
            Environment::of_table([("WEBSOCKET_THROTTLE", value)])
                .section::<WebsocketThrottleSection>()
                .map(|section| section.rates.to_string())
        };
        assert_eq!(rates("often"), Ok("10/second".into()));
        assert_eq!(rates(""), Ok("10/second".into()));
        assert_eq!(rates("5/minute"), Ok("5/minute".into()));
    }
}
