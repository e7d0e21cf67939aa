//! The queues of a template, and the functions that are called for what is in them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::intrinsics::Resolver;
use super::{Function, TemplateFile, number, text};
use crate::local_values::{queue_arn, queue_of_arn};

pub(super) const QUEUE: &str = "AWS::SQS::Queue";

/// What SQS gives a queue that asks for nothing else.
const DEFAULT_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_RETENTION: Duration = Duration::from_secs(4 * 24 * 60 * 60);

/// The largest of everything, in seconds.
const MAX_VISIBILITY_TIMEOUT: u64 = 12 * 60 * 60;
const RETENTION: (u64, u64) = (60, 14 * 24 * 60 * 60);
const MAX_DELAY: u64 = 15 * 60;
const MAX_WAIT: u64 = 20;
const MAX_WINDOW: u64 = 300;

/// The bounds of `MaximumMessageSize`, in bytes. The largest is also the default.
const MESSAGE_BYTES: (u64, u64) = (1_024, 1_048_576);

/// Lambda's bounds of an event source.
const DEFAULT_BATCH_SIZE: u64 = 10;
const MAX_BATCH_SIZE: u64 = 10_000;
const MAX_BATCH_SIZE_AT_ONCE: u64 = 10;
const MAXIMUM_CONCURRENCY: (u64, u64) = (2, 1_000);

/// An `AWS::SQS::Queue`; a standard one.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Its key under `Resources`.
    pub logical_id: String,
    /// `QueueName`, or one that is made from the logical id.
    pub name: String,
    /// `VisibilityTimeout`: how long a message that was received is hidden.
    pub visibility_timeout: Duration,
    /// `MessageRetentionPeriod`: what is older is gone.
    pub retention: Duration,
    /// `DelaySeconds`: how long a message is hidden that was sent without a delay of its own.
    pub delay: Duration,
    /// `ReceiveMessageWaitTimeSeconds`: how long a receiver waits that does not say how long.
    pub receive_wait: Duration,
    /// `MaximumMessageSize`.
    pub max_message_bytes: usize,
    /// `RedrivePolicy`.
    pub redrive: Option<Redrive>,
}

/// Where messages go that are received again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// The name of the dead-letter queue.
    pub queue: String,
    /// A message that was received so often is not received again, but moved.
    pub max_receive_count: u32,
}

/// An event of a function with `Type: SQS`: Lambda receives for the function and deletes what it has done.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSource {
    /// The name of the queue.
    pub queue: String,
    /// The name of the function.
    pub function: String,
    /// The most messages of one call.
    pub batch_size: usize,
    /// `MaximumBatchingWindowInSeconds`: how long a batch waits to become full.
    pub window: Duration,
    /// `ReportBatchItemFailures`: the function says which messages it could not do.
    pub reports_failures: bool,
    /// `ScalingConfig.MaximumConcurrency`: the most calls at a time.
    pub max_concurrency: Option<usize>,
}

impl TemplateFile {
    pub(super) fn queues(&self, resolver: &Resolver<'_>) -> Result<Vec<Queue>> {
        let mut queues: Vec<Queue> = Vec::new();
        for (logical_id, properties, path) in self.resources(resolver, QUEUE)? {
            let queue = queue(resolver, logical_id, &properties, &path)?;
            let known = queues.iter().any(|known| known.name == queue.name);
            ensure!(!known, "{path}.QueueName: there are two queues of the name `{}`", queue.name);
            queues.push(queue);
        }
        for queue in &queues {
            let Some(redrive) = &queue.redrive else { continue };
            let known = queues.iter().any(|known| known.name == redrive.queue);
            ensure!(
                known && redrive.queue != queue.name,
                "Resources.{}.Properties.RedrivePolicy.deadLetterTargetArn: `{}` is no other queue of this template",
                queue.logical_id,
                redrive.queue
            );
        }
        Ok(queues)
    }
}

fn queue(resolver: &Resolver<'_>, logical_id: &str, properties: &Value, path: &str) -> Result<Queue> {
    let fifo = text(resolver, properties, path, "FifoQueue")?;
    ensure!(fifo.is_none_or(|fifo| fifo == "false"), "{path}.FifoQueue: only standard queues are known here");
    let within = |key: &str, (least, most): (u64, u64), default: u64| -> Result<u64> {
        let value = number(resolver, properties, path, key)?.unwrap_or(default);
        ensure!((least..=most).contains(&value), "{path}.{key}: {value} is not within {least} and {most}");
        Ok(value)
    };
    let seconds = |key: &str, bounds: (u64, u64), default: Duration| {
        Ok::<_, anyhow::Error>(Duration::from_secs(within(key, bounds, default.as_secs())?))
    };
    Ok(Queue {
        logical_id: logical_id.to_owned(),
        name: resolver.queue_name(logical_id, path)?,
        visibility_timeout: seconds(
            "VisibilityTimeout",
            (0, MAX_VISIBILITY_TIMEOUT),
            DEFAULT_VISIBILITY_TIMEOUT,
        )?,
        retention: seconds("MessageRetentionPeriod", RETENTION, DEFAULT_RETENTION)?,
        delay: seconds("DelaySeconds", (0, MAX_DELAY), Duration::ZERO)?,
        receive_wait: seconds("ReceiveMessageWaitTimeSeconds", (0, MAX_WAIT), Duration::ZERO)?,
        max_message_bytes: within("MaximumMessageSize", MESSAGE_BYTES, MESSAGE_BYTES.1)?.try_into()?,
        redrive: redrive(resolver, properties, &format!("{path}.RedrivePolicy"))?,
    })
}

fn redrive(resolver: &Resolver<'_>, properties: &Value, path: &str) -> Result<Option<Redrive>> {
    let Some(policy) = properties.get("RedrivePolicy") else { return Ok(None) };
    let Some(policy) = resolver.resolve(policy, path)? else { return Ok(None) };
    let arn = text(resolver, &policy, path, "deadLetterTargetArn")?
        .with_context(|| format!("{path}.deadLetterTargetArn: missing"))?;
    let count = number(resolver, &policy, path, "maxReceiveCount")?
        .with_context(|| format!("{path}.maxReceiveCount: missing"))?;
    ensure!((1..=1_000).contains(&count), "{path}.maxReceiveCount: {count} is not within 1 and 1000");
    let queue =
        queue_of_arn(&arn).with_context(|| format!("{path}.deadLetterTargetArn: {arn} is no queue's"))?;
    Ok(Some(Redrive { queue: queue.to_owned(), max_receive_count: count.try_into()? }))
}

/// The event sources of one function.
pub(super) fn event_sources(
    resolver: &Resolver<'_>,
    queues: &[Queue],
    function: &Function,
    properties: &Value,
    path: &str,
) -> Result<Vec<EventSource>> {
    let mut sources = Vec::new();
    for (name, event) in properties["Events"].as_object().into_iter().flatten() {
        if event["Type"] != "SQS" {
            continue;
        }
        let path = format!("{path}.Events.{name}.Properties");
        let (source, enabled) = event_source(resolver, queues, function, &event["Properties"], &path)?;
        sources.extend(enabled.then_some(source));
    }
    Ok(sources)
}

fn event_source(
    resolver: &Resolver<'_>,
    queues: &[Queue],
    function: &Function,
    event: &Value,
    path: &str,
) -> Result<(EventSource, bool)> {
    ensure!(event.get("FilterCriteria").is_none(), "{path}.FilterCriteria: not supported here");
    let arn = text(resolver, event, path, "Queue")?.with_context(|| format!("{path}.Queue: missing"))?;
    let queue = queues.iter().find(|queue| queue_arn(&queue.name) == arn);
    let queue = queue.with_context(|| format!("{path}.Queue: {arn} is no queue of this template"))?;
    // As Lambda refuses it: a message would be given to a second call while the first still works on it.
    ensure!(
        queue.visibility_timeout >= function.timeout,
        "{path}.Queue: the queue's VisibilityTimeout ({} s) is less than the function's Timeout ({} s)",
        queue.visibility_timeout.as_secs(),
        function.timeout.as_secs()
    );
    let window = number(resolver, event, path, "MaximumBatchingWindowInSeconds")?.unwrap_or(0);
    ensure!(window <= MAX_WINDOW, "{path}.MaximumBatchingWindowInSeconds: at most {MAX_WINDOW}");
    let batch_size = number(resolver, event, path, "BatchSize")?.unwrap_or(DEFAULT_BATCH_SIZE);
    ensure!(
        (1..=MAX_BATCH_SIZE).contains(&batch_size),
        "{path}.BatchSize: not within 1 and {MAX_BATCH_SIZE}"
    );
    ensure!(
        batch_size <= MAX_BATCH_SIZE_AT_ONCE || window > 0,
        "{path}.BatchSize: more than {MAX_BATCH_SIZE_AT_ONCE} want a MaximumBatchingWindowInSeconds of at least 1"
    );
    let max_concurrency = match event.get("ScalingConfig") {
        None => None,
        Some(scaling) => number(resolver, scaling, &format!("{path}.ScalingConfig"), "MaximumConcurrency")?,
    };
    let (least, most) = MAXIMUM_CONCURRENCY;
    ensure!(
        max_concurrency.is_none_or(|calls| (least..=most).contains(&calls)),
        "{path}.ScalingConfig.MaximumConcurrency: not within {least} and {most}"
    );
    let source = EventSource {
        queue: queue.name.clone(),
        function: function.name.clone(),
        batch_size: batch_size.try_into()?,
        window: Duration::from_secs(window),
        reports_failures: reports_failures(resolver, event, path)?,
        max_concurrency: max_concurrency.map(usize::try_from).transpose()?,
    };
    let enabled = text(resolver, event, path, "Enabled")?.is_none_or(|enabled| enabled != "false");
    Ok((source, enabled))
}

fn reports_failures(resolver: &Resolver<'_>, event: &Value, path: &str) -> Result<bool> {
    let path = format!("{path}.FunctionResponseTypes");
    let types = event.get("FunctionResponseTypes").map(|types| resolver.resolve(types, &path)).transpose()?;
    let Some(types) = types.flatten() else { return Ok(false) };
    match types.as_array().map(Vec::as_slice) {
        Some([]) => Ok(false),
        Some([Value::String(only)]) if only == "ReportBatchItemFailures" => Ok(true),
        _ => bail!("{path}: only [ReportBatchItemFailures] is known"),
    }
}
