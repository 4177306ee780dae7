"""The stay of a request at one candidate."""

from contracts.providers import Endpoint
from workers.endpoints.admission import CandidateTries
from workers.endpoints.names import Candidate


def test_counts_the_tries_at_each_endpoint() -> None:
    east, west = Endpoint(name="east"), Endpoint(name="west")
    visit = CandidateTries(Candidate("openai", "gpt-4o"), [east, west])
    visit.go_to(east)
    visit.go_to(east)
    assert visit.tries == 2

    visit.leave()
    visit.go_to(west)
    assert (visit.tries, visit.endpoints) == (1, [west])


def test_an_endpoint_that_is_called_again_after_another_one_has_its_tries_still() -> None:
    east, west = Endpoint(name="east"), Endpoint(name="west")
    visit = CandidateTries(Candidate("openai", "gpt-4o"), [east, west])
    for endpoint in (east, east, west, east):
        visit.go_to(endpoint)

    assert visit.tries == 3


def test_may_wait_for_service_again_after_each_call_that_it_made() -> None:
    east = Endpoint(name="east")
    visit = CandidateTries(Candidate("openai", "gpt-4o"), [east], patience_s=30)
    visit.go_to(east)

    assert visit.patience_s == 0
