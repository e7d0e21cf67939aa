//! The log: one JSON object a line, on standard output, where Lambda picks it up.

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::configuration::{ConfigurationError, Environment, LogSection};

/// Starts the log. The libraries below are heard from `warn` on: some of them would write what a log must not hold.
///
/// # Errors
/// `LOG_LEVEL` or `LOG_FORMAT` cannot be read.
pub fn start(environment: &Environment) -> Result<(), ConfigurationError> {
    let section = environment.section();
    // A log that cannot be configured is started all the same: the reason has to go somewhere.
    let (level, json) =
        section.as_ref().map_or((tracing::Level::INFO, true), |LogSection { level, json }| (*level, *json));
    let ours = [
        "archive",
        "authorize",
        "connect",
        "disconnect",
        "fanout",
        "lambda",
        "login",
        "message",
        "rooms",
        "shared",
        "signup",
        "web",
    ];
    let filter = Targets::new()
        .with_default(tracing::Level::WARN.min(level))
        .with_targets(ours.map(|target| (target, level)))
        // Repeats what a handler has failed with, as an error and without an id: also for every handshake that is refused
        // for good reason. The line of the call tells of it already.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer();
    // A second start in one process is a mistake of ours, and the first log goes on.
    let _ = if json {
        registry
            .with(
                layer
                    .json()
                    .flatten_event(true)
                    .with_target(false)
                    .with_current_span(false)
                    .with_span_list(false),
            )
            .try_init()
    } else {
        registry.with(layer.with_target(false)).try_init()
    };
    section.map(|_| ())
}
