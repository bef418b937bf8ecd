//! The call by which the network of a container changes.

use agent_protocol::agent as api;
use protobuf::MessageField;
use ttrpc::{Code, Result};

use super::{encode, status};
use crate::container::Containers;
use crate::container::request::network::changed;
use crate::failure::{Failure, FailureKind};

pub(super) fn update(
    containers: &Containers,
    request: api::UpdateNetworkRequest,
) -> Result<api::UpdateNetworkResponse> {
    let found = containers.find(&request.container_id);
    let container = found.map_err(|error| status(Code::NOT_FOUND, &error))?;
    let updated = changed(request.network.unwrap_or_default(), request.removed)
        .map_err(|error| Failure::from_error(FailureKind::InvalidRequest, &error))
        .and_then(|(network, removed)| container.change_network(&network, &removed));
    let failure = MessageField::from_option(updated.err().map(encode));
    Ok(api::UpdateNetworkResponse { failure, ..Default::default() })
}
