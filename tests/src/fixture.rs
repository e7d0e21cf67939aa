//! The other end of the binary `fixture`: a Lambda function that asks the test what to do.
//!
//! A test holds a call for as long as it likes, looks at its event, and then answers it, lets it throw, panic,
//! exit or hang. So the order of things is the test's, and no test has to wait for time to pass.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::local_aws::target_dir;

/// The variable that tells the fixture where its test listens.
pub const ADDRESS_VARIABLE: &str = "FIXTURE_ADDRESS";

/// The variable that makes the fixture fail before its first call, as long as the file that it names is there. The file
/// says how: `exit` or `hang`.
pub const INIT_VARIABLE: &str = "FIXTURE_INIT";

/// Far longer than a call can take to come in, so that a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the fixture is to do with a call. In an event: `{"fixture": {"throw": "boom"}}`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Instruction {
    /// Answer this, whatever it is.
    Return(Value),
    /// Answer the event.
    Echo,
    /// Fail with this message.
    Throw(String),
    /// Panic with this message.
    Panic(String),
    /// End the process with this code, without an answer.
    Exit(i32),
    /// Never answer.
    Hang,
    /// Answer the call's context and the process's environment: `{"context": {…}, "environment": {…}}`.
    Tell,
    /// Answer a text of so many bytes.
    Fill(usize),
    /// Write so many lines to standard output, and then go on.
    Print {
        /// How many lines.
        lines: usize,
        /// What to do then.
        then: Box<Instruction>,
    },
    /// Wait for so long, and then go on.
    Sleep {
        /// Milliseconds.
        ms: u64,
        /// What to do then.
        then: Box<Instruction>,
    },
}

/// What the fixture tells the test about a call: one line of JSON. The line that comes back is an
/// [`Instruction`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// The function's name.
    pub function: String,
    /// Lambda's id of the call.
    pub request_id: String,
    /// The event, as it came.
    pub event: Value,
}

/// All functions of a local AWS that are fixtures.
#[derive(Debug)]
pub struct Functions {
    address: String,
    scripts: Arc<Mutex<HashMap<String, Instruction>>>,
    incoming: mpsc::UnboundedReceiver<Call>,
    waiting: Vec<Call>,
    listener: JoinHandle<()>,
}

/// A call of a function.
#[derive(Debug)]
pub struct Call {
    /// Which function, when and with what.
    pub report: Report,
    /// `None` once it is answered.
    fixture: Option<TcpStream>,
}

impl Functions {
    /// Listens for the calls of all fixtures that have [`Functions::address`] in their environment.
    pub async fn listen() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let scripts = Arc::new(Mutex::new(HashMap::new()));
        let (sender, incoming) = mpsc::unbounded_channel();
        let listener = tokio::spawn(accept(listener, Arc::clone(&scripts), sender));
        Ok(Self { address, scripts, incoming, waiting: Vec::new(), listener })
    }

    /// The value of [`ADDRESS_VARIABLE`] for the fixtures.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on every call of this function does this, without being asked for.
    pub fn script(&self, function: &str, instruction: Instruction) {
        self.scripts().insert(function.to_owned(), instruction);
    }

    /// From now on every call of this function waits for [`Call::answer`].
    pub fn hold(&self, function: &str) {
        self.scripts().remove(function);
    }

    /// The next call of this function, whether it waits for an answer or has had its own. Each call is given
    /// once, in the order in which they came.
    pub async fn next(&mut self, function: &str) -> Call {
        if let Some(known) = self.waiting.iter().position(|call| call.report.function == function) {
            return self.waiting.remove(known);
        }
        let next = async {
            loop {
                let call = self.incoming.recv().await.expect("the listener runs as long as this");
                if call.report.function == function {
                    return call;
                }
                self.waiting.push(call);
            }
        };
        timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("`{function}` was not called"))
    }

    fn scripts(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instruction>> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Call {
    /// The event.
    pub fn event(&self) -> &Value {
        &self.report.event
    }

    /// A part of `requestContext`.
    pub fn context(&self, key: &str) -> &Value {
        &self.report.event["requestContext"][key]
    }

    /// `requestContext.connectionId`.
    pub fn connection_id(&self) -> &str {
        self.context("connectionId").as_str().expect("every event of a WebSocket has a connection id")
    }

    /// Tells the function what to do.
    ///
    /// # Panics
    /// If the function has a script and was told already.
    pub async fn answer(mut self, instruction: Instruction) {
        let fixture = self.fixture.take().expect("a function with a script is not asked for");
        // A function that was killed meanwhile needs no answer.
        let _ = tell(fixture, &instruction).await;
    }

    /// Answers this JSON.
    pub async fn answer_json(self, value: Value) {
        self.answer(Instruction::Return(value)).await;
    }
}

async fn accept(
    listener: TcpListener,
    scripts: Arc<Mutex<HashMap<String, Instruction>>>,
    calls: mpsc::UnboundedSender<Call>,
) {
    while let Ok((fixture, _)) = listener.accept().await {
        let (scripts, calls) = (Arc::clone(&scripts), calls.clone());
        tokio::spawn(async move {
            // A function that was killed before it had told everything did not call.
            let Ok((report, fixture)) = listen_to(fixture).await else { return };
            let script =
                scripts.lock().unwrap_or_else(PoisonError::into_inner).get(&report.function).cloned();
            let fixture = match script {
                Some(instruction) => {
                    let _ = tell(fixture, &instruction).await;
                    None
                }
                None => Some(fixture),
            };
            // The test may be over.
            let _ = calls.send(Call { report, fixture });
        });
    }
}

async fn listen_to(fixture: TcpStream) -> Result<(Report, TcpStream)> {
    let mut fixture = BufReader::new(fixture);
    let mut line = String::new();
    fixture.read_line(&mut line).await?;
    Ok((serde_json::from_str(&line)?, fixture.into_inner()))
}

async fn tell(mut fixture: TcpStream, instruction: &Instruction) -> Result<()> {
    let line = serde_json::to_string(instruction)? + "\n";
    Ok(fixture.write_all(line.as_bytes()).await?)
}

/// What the test wants of a call: the fixture's own side of the conversation.
pub async fn ask(address: &str, report: &Report) -> Result<Instruction> {
    let mut test = TcpStream::connect(address).await.context("the test does not listen")?;
    test.write_all((serde_json::to_string(report)? + "\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(test).read_line(&mut line).await?;
    serde_json::from_str(&line).context("the test gave no instruction")
}

/// Makes a folder of function binaries that are all the fixture, under these names.
pub fn binaries(folder: &Path, names: &[&str]) -> Result<()> {
    let fixture = target_dir()?.join("fixture");
    anyhow::ensure!(fixture.exists(), "{} is missing: `./dev test` builds it", fixture.display());
    std::fs::create_dir_all(folder)?;
    for name in names {
        std::os::unix::fs::symlink(&fixture, folder.join(name))?;
    }
    Ok(())
}
