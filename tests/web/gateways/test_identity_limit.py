"""The limit of the identity headers: their size is the bytes of their lines on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.errors import IdentityTooLarge
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.identity_headers import IdentityLimit, IdentityNames
from sidegate.web.server.response_bytes import encode_response
from tests.contracts.values import build_session

any_text = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates, too
any_name = st.text(st.sampled_from("abcXYZ-_."), min_size=1, max_size=64)
any_session = st.builds(
    build_session,
    user_id=any_text,
    type=st.sampled_from(SessionType),
    scopes=st.lists(any_text, max_size=5).map(tuple),
)


def size_on_the_wire(session: Session, names: IdentityNames) -> int:
    response = GatewayPolicy(identity=names).write(Allow(session))
    return len(encode_response(response).identity_lines)


@given(any_session, st.builds(IdentityNames, *[any_name] * 6))
def test_limit_is_compared_with_the_bytes_on_the_wire(
    session: Session, names: IdentityNames
) -> None:
    size = size_on_the_wire(session, names)

    IdentityLimit(names, size).check(session)
    with pytest.raises(IdentityTooLarge, match=rf"at most {size - 1} bytes .* take {size}$"):
        IdentityLimit(names, size - 1).check(session)
