//! What the template takes from AWS has its value on this machine from here, and from nowhere else.
//!
//! An environment variable that is named in the table below gets the local value whatever the template says;
//! every other variable is resolved as the template says, where the account, the region and the ids of the
//! template's own resources have fixed local values (`pseudo_parameter`).
//! The variables that configure Banter, set in the shell, override both.

use std::collections::BTreeMap;

use crate::ids::{ACCOUNT_ID, REGION};

/// Variables that say where something is. A function gets one only if the template names it there, so that one
/// that is missing in the template is also missing here.
const ADDRESSES: [&str; 9] = [
    "DATABASE_URL",
    "REDIS_URL",
    "REDIS_CLUSTER",
    "REDIS_CA_FILE",
    "CONNECTIONS_URL",
    "WEBSOCKET_URL",
    "ARCHIVE_QUEUE_URL",
    "FANOUT_QUEUE_URL",
    "ARCHIVE_DEAD_LETTER_QUEUE_URL",
];

/// Tells the SDKs where SQS is.
pub(crate) const QUEUES_VARIABLE: &str = "AWS_ENDPOINT_URL_SQS";

/// Variables that have a default. Set in the shell, every function gets them.
const SETTINGS: [&str; 12] = [
    "WEBSOCKET_THROTTLE",
    "HTTP_THROTTLE",
    "SESSION_DAYS",
    "MAX_CONNECTIONS_PER_USER",
    "HISTORY_HOT",
    "HISTORY_IDLE_DAYS",
    "FANOUT_DIRECT",
    "PUSH_BUDGET_MS",
    "ROOM_CREATION",
    "ADMIN_USER_IDS",
    "LOG_LEVEL",
    "LOG_FORMAT",
];

/// The variables of Banter's configuration that are set in the shell.
#[derive(Clone, Debug, Default)]
pub struct Shell(BTreeMap<String, String>);

impl Shell {
    /// Reads this process's environment. A variable set to nothing counts as not set.
    pub fn read() -> Self {
        let known = |name: &str| ADDRESSES.contains(&name) || SETTINGS.contains(&name);
        let set = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            (known(&name) && !value.is_empty()).then_some((name, value))
        });
        Self(set.collect())
    }

    /// The value of one variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Shell {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// Where things are on this machine.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// `DATABASE_URL`.
    pub database: Option<String>,
    /// `REDIS_URL`.
    pub redis: Option<String>,
    /// `CONNECTIONS_URL`: the base of `@connections`, with the stage.
    pub management: Option<String>,
    /// `WEBSOCKET_URL`: where clients connect, with the stage.
    pub websocket: Option<String>,
    /// `AWS_ENDPOINT_URL_SQS`: the base of the queues' URLs. Absent in a template without queues.
    pub queues: Option<String>,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct LocalValues {
    shell: Shell,
    addresses: Addresses,
}

/// What a variable that a function's environment names is on this machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    /// Not what the template says, but this.
    Is(String),
    /// Not there.
    Absent,
    /// What the template says.
    AsInTemplate,
}

impl LocalValues {
    /// The table for these addresses, under what the shell overrides.
    pub fn new(shell: Shell, addresses: Addresses) -> Self {
        Self { shell, addresses }
    }

    /// What a variable that the template gives to a function is here.
    pub(crate) fn variable(&self, name: &str) -> Variable {
        if let Some(value) = self.shell.get(name) {
            return Variable::Is(value.to_owned());
        }
        let address = match name {
            "DATABASE_URL" => &self.addresses.database,
            "REDIS_URL" => &self.addresses.redis,
            "CONNECTIONS_URL" => &self.addresses.management,
            "WEBSOCKET_URL" => &self.addresses.websocket,
            // The Redis of this machine is one plain server, whatever the template deploys.
            "REDIS_CLUSTER" => return Variable::Is("false".into()),
            "REDIS_CA_FILE" => return Variable::Absent,
            _ => return Variable::AsInTemplate,
        };
        address.clone().map_or(Variable::AsInTemplate, Variable::Is)
    }

    /// Where SQS is, if there are queues.
    pub(crate) fn queues(&self) -> Option<&str> {
        self.addresses.queues.as_deref()
    }

    /// The settings of the shell, for every function.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        SETTINGS.iter().filter_map(|name| Some((*name, self.shell.get(name)?)))
    }
}

/// The local value of one of CloudFormation's pseudo parameters.
pub(crate) fn pseudo_parameter(name: &str) -> Option<&'static str> {
    Some(match name {
        "AWS::AccountId" => ACCOUNT_ID,
        "AWS::Region" => REGION,
        "AWS::Partition" => "aws",
        "AWS::URLSuffix" => "amazonaws.com",
        "AWS::StackName" => "local",
        "AWS::StackId" => "arn:aws:cloudformation:local:local:stack/local/local",
        _ => return None,
    })
}

/// The credentials of the functions: the SDKs want some, and nobody here checks them. They are no real ones, so
/// that a call that leaves this machine by mistake is refused by AWS.
pub(crate) const CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIALOCALLOCALLOCAL0"),
    ("AWS_SECRET_ACCESS_KEY", "local-credentials-are-checked-by-nobody"),
    ("AWS_SESSION_TOKEN", "local"),
];

/// The ARN of a function.
pub(crate) fn function_arn(name: &str) -> String {
    format!("arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{name}")
}

/// The function's name in an ARN made by [`function_arn`], with or without a qualifier.
pub(crate) fn function_of_arn(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split(":function:").nth(1)?.split(':').next()
}

/// The ARN of a queue.
pub(crate) fn queue_arn(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{name}")
}

/// The queue's name in an ARN made by [`queue_arn`].
pub(crate) fn queue_of_arn(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:aws:sqs:")?.rsplit(':').next()
}

/// The URL of a queue of the SQS at `base`, `http://<host>:<port>`.
pub(crate) fn queue_url(base: &str, name: &str) -> String {
    format!("{base}/{ACCOUNT_ID}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(shell: &[(&str, &str)]) -> LocalValues {
        let addresses = Addresses { redis: Some("redis://local".into()), ..Addresses::default() };
        LocalValues::new(shell.iter().copied().collect(), addresses)
    }

    #[test]
    fn an_address_is_local_unless_the_shell_says_otherwise() {
        assert_eq!(table(&[]).variable("REDIS_URL"), Variable::Is("redis://local".into()));
        let elsewhere = table(&[("REDIS_URL", "redis://elsewhere")]);
        assert_eq!(elsewhere.variable("REDIS_URL"), Variable::Is("redis://elsewhere".into()));
    }

    #[test]
    fn a_cluster_is_spoken_to_only_if_the_shell_says_so() {
        assert_eq!(table(&[]).variable("REDIS_CLUSTER"), Variable::Is("false".into()));
        assert_eq!(
            table(&[("REDIS_CLUSTER", "true")]).variable("REDIS_CLUSTER"),
            Variable::Is("true".into())
        );
    }

    #[test]
    fn what_the_table_does_not_know_is_as_in_the_template() {
        assert_eq!(table(&[]).variable("WEBSOCKET_THROTTLE"), Variable::AsInTemplate);
    }

    #[test]
    fn only_settings_go_to_every_function() {
        let table = table(&[("LOG_LEVEL", "debug"), ("DATABASE_URL", "postgres://elsewhere")]);
        assert_eq!(table.settings().collect::<Vec<_>>(), [("LOG_LEVEL", "debug")]);
    }

    #[test]
    fn the_name_of_a_function_is_read_from_its_arn() {
        assert_eq!(function_of_arn(&function_arn("rooms")), Some("rooms"));
        assert_eq!(function_of_arn("arn:aws:lambda:us-east-1:1:function:rooms:live"), Some("rooms"));
        assert_eq!(function_of_arn("arn:aws:sqs:us-east-1:1:rooms"), None);
    }
}
