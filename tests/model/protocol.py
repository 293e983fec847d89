"""The elements of the protocol. Each can be left out, to show what it prevents."""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """The elements that are in force: all of them, unless a row of the table says otherwise."""

    # Seals
    compare_and_set: bool = True  # a page replaces only the seal that was read
    revisions: bool = True  # each page replaces the seal, although only the last moves its mark
    mark_id: bool = True  # a mark is lost if its id is not stored, not only if it is in the future
    mark_with_list: bool = True  # the mark is stored by the statement that lists the changes
    needs_mark: bool = True  # a round verifies no changed namespace for which none can be stored
    creations_counted: bool = True  # a creation is a change, which marks cover or not

    # Copies
    exact_seal: bool = True  # a fill is dropped unless the seal is the one seen before
    covered_fills: bool = True  # only what the seal's mark covers is filled
    keep_fresher: bool = True  # a page does not replace a fresher copy
    names_grace: bool = True  # the change log names digests within their grace
    names_rotated: bool = True  # and those rotated out since the mark

    # Pages
    restrict_only_pages: bool = True  # pages before the last put no copy that can open
    covered_pages: bool = True  # nor does the last if the mark does not cover its change
    fixed_ids: bool = True  # the first page fixes which sessions the others list

    # Publication by the instance that commits a change
    publishes: bool = True  # what the change restricts is put into Redis at once
    blocks_older: bool = True  # a header blocks copies older than one that can open
    no_deadlines: bool = True  # and a copy with a deadline is not put itself
    keeps_own: bool = True  # own changes win over older copies until a later round has ended

    # Trust
    verified_only: bool = True  # copies of other namespaces are not used
    compares_order: bool = True  # nor those under an older seal than was verified
    invalidations: bool = True  # what was not published is a reason to verify again
    void_rounds: bool = True  # a round begun before an invalidation verifies nothing
    drops_unfollowed: bool = True  # what a round did not verify is not trusted after it
    forgets_all: bool = True  # nor anything, if the database was lost after the round saw changes
    forgets_behind: bool = True  # (without that: nothing that lacks changes which it has seen)
    invalidates_lost: bool = True  # a mark that is lost is an invalidation
    lapse: bool = True  # an instance that was suspended trusts nothing
    lapse_from_start: bool = True  # counted from the start of its last round

    # Lookups
    in_one_step: bool = True  # seal and copy are read atomically; else in three steps
    first_read: bool = True  # the seal is read before the copy
    second_read: bool = True  # and after it

    # Process memory
    ages_from_round: bool = True  # a copy from Redis is as old as the last round
    ages_from_list: bool = True  # a copy that the change poller listed is as old as the list

    # What is checked
    exempts_split: bool = True  # an instance cut off, if no instance that knew reached its Redis

    def without(self, name: str) -> "Protocol":
        """Return it without one element."""
        return replace(self, **{name: False})


ELEMENTS = tuple(each.name for each in fields(Protocol))
