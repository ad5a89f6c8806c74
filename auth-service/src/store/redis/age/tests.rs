use super::*;

/// The report of a Redis server whose changes have these numbers and tokens, in response to a request with the
/// token of `asked`.
fn told(number: u64, changes: &[(u64, u64)], asked: KnownBefore) -> AgeReport {
    let mark = |(number, token): &(u64, u64)| Mark { number: *number, token: *token };
    let found = |mark: Mark| changes.iter().find(|change| change.1 == mark.token);
    AgeReport {
        number,
        latest: changes.last().map(mark),
        earliest: changes.first().map(|change| change.0),
        number_of_asked: asked.mark.and_then(found).map(|change| change.0),
        ..AgeReport::default()
    }
}

#[test]
fn a_lower_number_is_refused_until_another_connection_has_it_or_another_store() {
    let age = Age::default();
    age.note_identity(Some("1.first")).unwrap();
    let number = |number| AgeReport { number, ..AgeReport::default() };
    let compare = |found| age.compare(age.known_now(), number(found));
    let earlier = age.known_now();
    assert!(compare(3).is_ok() && compare(3).is_ok());
    assert!(age.compare(earlier, number(2)).is_ok(), "the response to an earlier request arrives later");
    let error = compare(1).unwrap_err().to_string();
    assert!(error.contains("2 changes are undone"), "{error}");
    assert!(age.has_to_be_read());
    age.note_identity(None).unwrap();
    assert!(age.has_to_be_identified() && compare(2).is_err());
    age.note_identity(Some("1.first")).unwrap();
    let error = compare(5).unwrap_err().to_string();
    assert!(error.contains("2 changes are undone"), "changes by other replicas: {error}");
    age.doubt();
    assert!(compare(3).is_ok() && !age.has_to_be_read(), "this is the latest data");
    assert!(compare(0).is_err());
    let earlier = age.known_now();
    age.note_identity(Some("2.second")).unwrap();
    assert!(age.compare(earlier, number(0)).is_ok(), "the request was sent to another store");
    assert!(compare(0).is_ok() && !age.has_to_be_read());
}

#[test]
fn a066_a_number_that_others_have_caught_up_with_is_that_of_another_history() {
    let age = Age::default();
    let compare = |number, changes: &[(u64, u64)]| {
        let asked = age.known_now();
        age.compare(asked, told(number, changes, asked))
    };
    let ours = [(1, 11), (2, 12), (3, 13)];
    assert!(compare(3, &ours).is_ok());
    for number in 3..6 {
        let theirs: Vec<_> = (1..=number).map(|n| (n, if n == 1 { 11 } else { 20 + n })).collect();
        age.doubt();
        let error = compare(number, &theirs).unwrap_err().to_string();
        assert!(error.contains("at least 1 change is undone"), "{error}");
    }
    // After the history was lost, there are no tokens to compare.
    age.doubt();
    assert!(compare(3, &[]).is_err());
    age.doubt();
    assert!(compare(4, &[(1, 11), (2, 12), (3, 13), (4, 14)]).is_ok());
    // A change that is no longer in the history cannot be compared.
    age.doubt();
    assert!(compare(5000, &[(4990, 1), (5000, 2)]).is_ok());
    // The number can grow without a token in the history.
    assert!(compare(5001, &[(4990, 1), (5000, 2)]).is_ok());
    assert!(compare(5001, &[(4990, 1), (5000, 3)]).is_err());
}

#[test]
fn a066_what_another_process_knows_counts_for_one_that_knows_less() {
    let (knows, frozen) = (Age::default(), Age::default());
    for age in [&knows, &frozen] {
        age.note_identity(Some("1.store")).unwrap();
    }
    let compare = |age: &Age, number, changes: &[(u64, u64)]| {
        let asked = age.known_now();
        age.compare(asked, told(number, changes, asked))
    };
    assert!(compare(&frozen, 1, &[(1, 11)]).is_ok());
    assert!(compare(&knows, 3, &[(1, 11), (2, 12), (3, 13)]).is_ok());
    let older = [(1, 11)];
    assert!(compare(&frozen, 1, &older).is_ok(), "the frozen replica cannot know");
    assert!(frozen.claim(frozen.known_now(), told(1, &older, frozen.known_now())).is_none());
    let asked = knows.known_now();
    let claim = knows.claim(asked, told(1, &older, asked)).unwrap();
    let claimed = |age: &Age, number, changes: &[(u64, u64)]| {
        let found = changes.iter().find(|change| Some(change.1) == claim.mark.map(|mark| mark.token));
        AgeReport {
            claim: Some(claim),
            number_of_claimed: found.map(|change| change.0),
            ..told(number, changes, age.known_now())
        }
    };
    assert!(knows.claim(asked, claimed(&knows, 1, &older)).is_none(), "the claim exists already");
    let report = claimed(&frozen, 1, &older);
    let error = frozen.compare(frozen.known_now(), report).unwrap_err().to_string();
    assert!(error.contains("at least 2 changes are undone"), "{error}");
    // Other changes make the number catch up.
    let others = [(1, 11), (2, 22), (3, 23)];
    frozen.doubt();
    assert!(frozen.compare(frozen.known_now(), claimed(&frozen, 3, &others)).is_err());
    // The refusal ends when a new connection leads to the latest data, or an operator adopts the data as a new
    // store.
    frozen.doubt();
    let latest = claimed(&frozen, 3, &[(1, 11), (2, 12), (3, 13)]);
    assert!(frozen.compare(frozen.known_now(), latest).is_ok());
    frozen.note_identity(Some("2.adopted")).unwrap();
    assert!(frozen.compare(frozen.known_now(), claimed(&frozen, 1, &older)).is_ok());
}

#[test]
fn a_number_that_this_process_increments_was_one_less_before() {
    let age = Age::default();
    let count = |before, changes: &[(u64, u64)], token| {
        let asked = age.known_now();
        age.compare_counted(asked, told(before, changes, asked), token)
    };
    assert!(count(0, &[], 7).is_ok() && count(1, &[(1, 7)], 8).is_ok());
    let error = count(1, &[(1, 7)], 9).unwrap_err().to_string();
    assert!(error.contains("1 change is undone"), "{error}");
}

#[test]
fn an_answer_over_an_earlier_connection_says_nothing_about_a_new_one() {
    let age = Age::default();
    let asked = age.known_now();
    let one = AgeReport { number: 1, ..AgeReport::default() };
    age.doubt();
    assert!(age.compare(asked, one).is_ok() && age.has_to_be_read());
    assert!(age.compare(age.known_now(), one).is_ok() && !age.has_to_be_read());
}
