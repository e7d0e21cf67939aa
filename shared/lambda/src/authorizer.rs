//! Functions that authorize the handshakes of a WebSocket API.

use std::{cell::Cell, panic::AssertUnwindSafe};

use aws_lambda_events::apigw::ApiGatewayCustomAuthorizerRequestTypeRequest;
use futures::FutureExt;
use lambda_runtime::{LambdaEvent, service_fn};
use serde::Serialize;

use crate::{
    Fatal,
    access::{Access, log_failure, panic_text},
};

/// Serves an authorizer until the process ends. `handle` may add to the access line what it learns of the call; what it
/// fails with goes to the gateway as it is.
///
/// # Errors
/// The Runtime API is gone.
pub async fn run<R: Serialize>(
    function: &'static str,
    handle: impl AsyncFn(ApiGatewayCustomAuthorizerRequestTypeRequest, &mut Access) -> Result<R, Fatal>,
) -> Result<(), Fatal> {
    let cold_start = Cell::new(true);
    lambda_runtime::run(service_fn(
        async |event: LambdaEvent<ApiGatewayCustomAuthorizerRequestTypeRequest>| {
            let context = &event.payload.request_context;
            let request_id = context.request_id.clone().unwrap_or_default();
            let mut access = Access::begin(function, &request_id, "authorizer", cold_start.replace(false));
            let outcome = AssertUnwindSafe(handle(event.payload, &mut access)).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|panic| {
                log_failure(
                    &request_id,
                    function,
                    "internal",
                    &format_args!("panic: {}", panic_text(&*panic)),
                );
                Err("internal".into())
            });
            match &outcome {
                Ok(_) => access.end(Some(200), None),
                Err(error) => access.end(None, Some(&error.to_string())),
            }
            outcome
        },
    ))
    .await
}
