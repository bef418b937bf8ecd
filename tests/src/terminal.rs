//! A pseudo terminal in which a program runs as in a person's shell.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Child, Command};

use anyhow::{Context, Result};

use crate::Output;

/// The near end of a pseudo terminal.
#[derive(Debug)]
pub struct Terminal {
    end: File,
    output: Output,
}

impl Terminal {
    /// Runs a command on a terminal of the given size, as the leader of a session.
    ///
    /// # Errors
    /// When there is no terminal or it cannot be started.
    pub fn run(command: &Command, rows: u16, columns: u16) -> Result<(Child, Self)> {
        let (near, far) = pty_process::blocking::open().context("cannot open a terminal")?;
        near.resize(pty_process::Size::new(rows, columns)).context("cannot size the terminal")?;
        let environment = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let on_terminal = pty_process::blocking::Command::new(command.get_program())
            .args(command.get_args())
            .envs(environment);
        let child =
            on_terminal.spawn(far).with_context(|| format!("cannot start {command:?} on a terminal"))?;
        Ok((child, Self::new(near)?))
    }

    pub(crate) fn new(end: impl AsFd) -> Result<Self> {
        let duplicate =
            || end.as_fd().try_clone_to_owned().context("cannot duplicate the terminal").map(File::from);
        let reader: File = duplicate()?;
        Ok(Self { end: duplicate()?, output: Output::collect(reader) })
    }

    /// Types.
    ///
    /// # Errors
    /// When the terminal takes nothing.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        self.end.write_all(text.as_bytes()).with_context(|| format!("cannot type {text:?}"))
    }

    /// Changes the window's size; the foreground process group gets SIGWINCH.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.end, size).context("cannot change the window's size")
    }

    /// What is on the screen until now.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Whether input is handed on byte by byte and unechoed, as the program that reads it asked.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn is_raw(&self) -> Result<bool> {
        use rustix::termios::LocalModes;
        let modes =
            rustix::termios::tcgetattr(&self.end).context("cannot read the terminal's modes")?.local_modes;
        Ok(!modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }
}
