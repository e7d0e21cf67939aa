//! Runs the walk in README.md as it stands there: every command in a shell on a terminal of its own, every frame in the
//! real wscat.
//!
//! A fenced block `sh <name>` is typed into the shell of the terminal of that name, a block `json <name>` into the wscat
//! that runs in it. Two things are replaced, and nothing else: the addresses of the two APIs, because the test has a
//! Banter of its own ([`replace_addresses`]).

mod terminal;

use serde_json::Value;
use tests::{local_aws::workspace_dir, test_app::TestApp};

use terminal::Terminal;

/// Blocks for a person's own machine: they take its ports, or all of its time.
const NOT_RUN: [&str; 1] =
    ["./dev up      # installs what is missing, starts everything, prints where it is; Ctrl-C stops it
./dev test    # all the tests
"];

/// A fenced block.
struct Block {
    /// What stands behind the opening fence.
    info: String,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            blocks.push(Block { info: info.to_owned(), text });
        }
    }
    blocks
}

fn replace_addresses(text: &str, app: &TestApp) -> String {
    text.replace("http://127.0.0.1:3000", &app.aws.endpoints.http)
        .replace("ws://127.0.0.1:3001/live", &app.aws.endpoints.websocket)
}

#[tokio::test]
async fn the_walk_in_the_readme_works_as_typed() {
    let readme = std::fs::read_to_string(workspace_dir().join("README.md")).expect("there is a README");
    TestApp::run(async |app| {
        for secret in
            ["ada@example.com", "bob@example.com", "violet-kettle-orbit-42", "amber-lantern-drift-77"]
        {
            assert!(readme.contains(secret));
            app.ledger().secret(secret);
        }
        let (mut ada, mut bob) = (Terminal::open().await, Terminal::open().await);
        let mut said = Vec::new();
        for block in blocks(&replace_addresses(&readme, app)) {
            let (terminal, other) = match block.info.split_once(' ') {
                Some((_, "ada")) => (&mut ada, &mut bob),
                Some((_, "bob")) => (&mut bob, &mut ada),
                _ => {
                    assert!(NOT_RUN.contains(&block.text.as_str()), "nobody runs this: {}", block.text);
                    continue;
                }
            };
            if block.info.starts_with("sh ") {
                terminal.leave_wscat().await;
                for command in commands(&block.text) {
                    run(terminal, &command).await;
                }
            } else {
                for frame in block.text.lines() {
                    say(terminal, other, frame, &mut said).await;
                }
            }
        }
        let history = ada.output();
        assert!(!said.is_empty() && said.iter().all(|text| history.contains(text)), "{history}");
        bob.leave_wscat().await;
    })
    .await;
}

/// A command is a line with the lines that it is continued on.
fn commands(text: &str) -> Vec<String> {
    let mut commands = vec![String::new()];
    for line in text.lines() {
        let command = commands.last_mut().expect("there is one");
        command.push_str(line);
        command.push('\n');
        if !line.ends_with('\\') {
            commands.push(String::new());
        }
    }
    commands.pop();
    commands
}

async fn run(terminal: &mut Terminal, command: &str) {
    terminal.write(command);
    if command.contains("wscat") {
        terminal.wait_for("Connected (press CTRL+C to quit)").await;
        terminal.in_wscat = true;
        return;
    }
    terminal.wait_for_prompt().await;
    let output = terminal.output();
    assert!(!output.contains("\"error\"") && !output.contains("curl:"), "{command}\n{output}");
}

/// Types a frame and waits for its reply, and for what the other terminal gets of it.
async fn say(terminal: &mut Terminal, other: &mut Terminal, frame: &str, said: &mut Vec<String>) {
    let parsed: Value = serde_json::from_str(frame).expect("a frame is JSON");
    let reply = match parsed["action"].as_str() {
        Some("join") => r#"< {"type":"joined""#,
        Some("send") => r#"< {"type":"ack""#,
        other => panic!("what is the reply to {other:?}?"),
    };
    terminal.write(frame);
    terminal.write("\n");
    terminal.wait_for(reply).await;
    if let Some(text) = parsed["text"].as_str() {
        other.wait_for(&format!(r#""text":"{text}""#)).await;
        said.push(text.to_owned());
    }
}
