//! What comes in at an interface goes out at its tap, and the other way round, before the host's own stack sees it.
//!
//! The rules are nf_tables' (`fwd` at the ingress of devices) in a table with the flag `owner` (Linux 5.12): such a table
//! is nobody else's to change, and goes when the socket that has made it closes, whatever ends the process. What
//! tc has for this purpose (an ingress qdisc with filters) would stay on the interface of a killed sandbox, which may outlive it.

use std::io;

use super::netlink::{ACK, APPEND, CREATE, REQUEST, Socket, attribute, message, nested, text};

/// Of the table; the flag `owner` makes it this sandbox's alone.
const TABLE: &str = "runv";

/// `NFNL_MSG_BATCH_BEGIN` and `_END`, `NFNL_SUBSYS_NFTABLES`, `NFPROTO_NETDEV` (linux/netfilter).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NETDEV: u8 = 5;

/// `NFT_MSG_*`, and what they hold (linux/netfilter/nf_tables.h).
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const TABLE_OWNER: u32 = 2;
const INGRESS: u32 = 0;
const REGISTER_1: u32 = 1;

/// The rules are there as long as this is open.
#[derive(Debug)]
pub(crate) struct Redirect {
    _owner: Socket,
}

/// An interface, by name and number.
pub(super) type End = (String, u32);

impl Redirect {
    /// Joins the interfaces of each pair. `AlreadyExists` and `PermissionDenied` mean that another sandbox has done so.
    pub(super) fn between(pairs: &[[End; 2]]) -> io::Result<Self> {
        let owner = Socket::netfilter()?;
        let new = REQUEST | ACK | CREATE;
        let mut batch = message(BATCH_BEGIN, REQUEST, &header(0, SUBSYSTEM));
        batch.extend(request(NEW_TABLE, new | EXCLUSIVE, &[text(1, TABLE), number(2, TABLE_OWNER)]));
        let mut answers = 1;
        for (from, to) in pairs.iter().flat_map(|[one, other]| [(one, other), (other, one)]) {
            let hook = nested(4, &[number(1, INGRESS), number(2, 0), text(3, &from.0)]);
            let chain = from.1.to_string();
            let names = [text(1, TABLE), text(3, &chain), hook, text(7, "filter")];
            batch.extend(request(NEW_CHAIN, new, &names));
            let rule = [text(1, TABLE), text(2, &chain), nested(4, &forward(to.1))];
            batch.extend(request(NEW_RULE, new | APPEND, &rule));
            answers += 2;
        }
        batch.extend(message(BATCH_END, REQUEST, &header(0, SUBSYSTEM)));
        owner.execute(&batch, answers)?;
        Ok(Self { _owner: owner })
    }
}

/// `NLM_F_EXCL`.
const EXCLUSIVE: u16 = 0x200;

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> Vec<u8> {
    [&[family, 0][..], &resource.to_be_bytes()].concat()
}

fn request(kind: u16, flags: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    message(kind, flags, &[header(NETDEV, 0), attributes.concat()].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, value.to_be_bytes())
}

/// Expressions that send a packet out at the interface `index`.
fn forward(index: u32) -> [Vec<u8>; 2] {
    let value = nested(2, &[attribute(1, index.to_ne_bytes())]);
    let immediate = nested(2, &[number(1, REGISTER_1), value]);
    let forward = nested(2, &[number(1, REGISTER_1)]);
    [nested(1, &[text(1, "immediate"), immediate]), nested(1, &[text(1, "fwd"), forward])]
}
