//! A terminal with a shell in it.

use std::{
    fs::File,
    io::{Read, Write},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use nix::pty::{Winsize, openpty};
use tests::{local_aws::workspace_dir, test_app::eventually};
use tokio::process::{Child, Command};

/// What no output has by chance.
const PROMPT: &str = "[the shell is ready]";

/// A terminal of one person.
pub(crate) struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of the screen was waited for already.
    seen: usize,
    /// Where the output of the last thing typed begins.
    typed: usize,
    /// Whether what is typed goes to wscat.
    pub(crate) in_wscat: bool,
    _shell: Child,
}

impl Terminal {
    /// Opens a terminal in the project's folder.
    pub(crate) async fn open() -> Self {
        // So wide that nothing typed is broken into lines.
        let size = Winsize { ws_row: 50, ws_col: 2_000, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("the system has terminals");
        let end = || Stdio::from(pty.slave.try_clone().expect("a handle can be copied"));
        let shell = Command::new("bash")
            .args(["--norc", "--noprofile", "-i"])
            .env("PS1", PROMPT)
            .env("TERM", "xterm")
            .env("INPUTRC", "/dev/null")
            .env("HISTFILE", "/dev/null")
            .current_dir(workspace_dir())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .kill_on_drop(true)
            .spawn()
            .expect("bash is installed");
        drop(pty.slave);

        let keyboard = File::from(pty.master);
        let screen = Arc::<Mutex<Vec<u8>>>::default();
        let mut reader = keyboard.try_clone().expect("a handle can be copied");
        std::thread::spawn({
            let screen = Arc::clone(&screen);
            move || {
                let mut buffer = [0; 4_096];
                // Linux says EIO when the last one at the other end has gone.
                while let Ok(count @ 1..) = reader.read(&mut buffer) {
                    screen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
                }
            }
        });
        let mut terminal = Self { keyboard, screen, seen: 0, typed: 0, in_wscat: false, _shell: shell };
        terminal.wait_for_prompt().await;
        terminal
    }

    /// Types.
    pub(crate) fn write(&mut self, text: &str) {
        self.typed = self.text().len();
        self.seen = self.typed;
        self.keyboard.write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Waits until this is shown, behind what was waited for before.
    pub(crate) async fn wait_for(&mut self, expected: &str) {
        let condition = format!("{expected:?} is shown");
        self.seen = eventually(&condition, async || {
            let text = self.text();
            let new = &text[self.seen..];
            new.find(expected).map(|at| self.seen + at + expected.len()).ok_or_else(|| text.clone())
        })
        .await;
    }

    /// Waits until the shell has done what it was told.
    pub(crate) async fn wait_for_prompt(&mut self) {
        self.wait_for(PROMPT).await;
    }

    /// What is shown since something was typed last.
    pub(crate) fn output(&self) -> String {
        self.text()[self.typed..].to_owned()
    }

    /// Presses Ctrl-C if wscat is running.
    pub(crate) async fn leave_wscat(&mut self) {
        if self.in_wscat {
            self.write("\x03");
            self.wait_for_prompt().await;
            self.in_wscat = false;
        }
    }

    /// Everything that was shown, without colours and movements of the cursor.
    fn text(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = String::from_utf8_lossy(&screen);
        let mut text = String::with_capacity(raw.len());
        let mut characters = raw.chars();
        while let Some(c) = characters.next() {
            // ECMA-48: a control sequence is ESC, [, parameters, and a final byte from @ to ~.
            match c {
                '\x1b' if characters.next() == Some('[') => _ = characters.find(|c| ('@'..='~').contains(c)),
                '\x1b' => (),
                c => text.push(c),
            }
        }
        text
    }
}
