//! Unix sockets of the host, in a container: the agent listens, and each connection goes on by vsock.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

use crate::kmsg;

/// A socket of the host, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSocket {
    /// The vsock port by which the host connects to it.
    pub port: u32,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl HostSocket {
    /// Where the agent listens in its stead, in the folder of the container's sockets.
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(self.port.to_string())
    }
}

/// Serves the sockets of one container until it is dropped.
#[derive(Debug)]
pub struct Relays {
    folder: PathBuf,
    tasks: Vec<JoinHandle<()>>,
}

impl Relays {
    /// Listens for `sockets` in `folder`, which is made if there are any.
    ///
    /// # Errors
    ///
    /// Those of bind(2) and of making the folder.
    pub fn start(folder: PathBuf, sockets: impl IntoIterator<Item = HostSocket>) -> io::Result<Self> {
        let mut relays = Self { folder, tasks: Vec::new() };
        for socket in sockets {
            fs::create_dir_all(&relays.folder)?;
            let path = socket.path(&relays.folder);
            let listener = UnixListener::bind(&path)?;
            chown(&path, Some(socket.uid), Some(socket.gid))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(socket.mode))?;
            relays.tasks.push(tokio::spawn(serve(listener, socket.port)));
        }
        Ok(relays)
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if !self.tasks.is_empty() {
            // It is the guest's memory; what is left goes with that.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

async fn serve(listener: UnixListener, port: u32) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => drop(tokio::spawn(relay(connection, port))),
            // Out of descriptors or memory: whoever connected is turned away when it is over.
            Err(error) => {
                kmsg::debug(|| format!("cannot accept a connection for port {port}: {error}"));
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Between a connection of a client and the host. An error on the way is its end, which is what the client can see.
pub(crate) async fn relay(mut connection: impl AsyncRead + AsyncWrite + Unpin, port: u32) {
    let carried = async {
        let mut host = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await?;
        copy_bidirectional(&mut connection, &mut host).await
    };
    if let Err(error) = carried.await {
        kmsg::debug(|| format!("connection to port {port}: {error}"));
    }
}
