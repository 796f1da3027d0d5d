"""Selectors applied to labels at hand: label selectors over pods and namespaces, node selectors over nodes.

An absent label selector selects nothing, an empty one everything; an empty node selector term selects nothing.
Source: Kubernetes API reference, `LabelSelector`, `NodeSelector`.
"""

from collections.abc import Iterable, Mapping

from nodeyard.api.selectors import LabelSelector, NodeSelector, NodeSelectorTerm, Requirement
from nodeyard.scheduling.requirements import canonical_key, integer


def expression_matches(expression: Requirement, labels: Mapping[str, str]) -> bool:
    """One expression against labels, as kube-scheduler evaluates it."""
    value = labels.get(expression.key)
    if value is None:
        value = labels.get(canonical_key(expression.key))
    return value_matches(expression, value)


def value_matches(expression: Requirement, value: str | None) -> bool:
    """One expression against a label's value; None: the label is absent. Unknown operators match nothing."""
    operator = expression.operator
    if operator == "In":
        return value is not None and value in expression.values
    if operator == "NotIn":
        return value is None or value not in expression.values
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if value is None or len(expression.values) != 1:
        return False
    have, want = integer(value), integer(expression.values[0])
    if have is None or want is None:
        return False
    if operator == "Gt":
        return have > want
    if operator == "Lt":
        return have < want
    if operator == "Gte":
        return have >= want
    return operator == "Lte" and have <= want


def labels_match(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects an object with these labels."""
    if selector is None:
        return False
    return all(labels.get(k) == v for k, v in selector.match_labels.items()) and all(
        expression_matches(e, labels) for e in selector.match_expressions
    )


def term_matches(term: NodeSelectorTerm, labels: Mapping[str, str]) -> bool:
    if not term.match_expressions or term.match_fields:
        return False
    return all(expression_matches(e, labels) for e in term.match_expressions)


def terms_match(terms: Iterable[NodeSelectorTerm], labels: Mapping[str, str]) -> bool:
    """Whether any of the terms holds."""
    return any(term_matches(term, labels) for term in terms)


def node_admits(
    node_selector: Mapping[str, str], required: NodeSelector | None, labels: Mapping[str, str]
) -> bool:
    """Whether a node with these labels satisfies a pod's node selector and required node affinity."""
    for key, value in node_selector.items():
        if labels.get(key, labels.get(canonical_key(key))) != value:
            return False
    return required is None or terms_match(required.node_selector_terms, labels)
