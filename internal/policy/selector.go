package policy

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nearpath/nearpath/internal/labelexpr"
)

// A kubernetesSelector is a LabelSelector of the API.
type kubernetesSelector struct{ labels.Selector }

// labelSelector converts a selector of the API; nil, which matches everything, for an empty one.
func labelSelector(in *metav1.LabelSelector) (Selector, error) {
	if len(in.MatchLabels) == 0 && len(in.MatchExpressions) == 0 {
		return nil, nil
	}
	s, err := metav1.LabelSelectorAsSelector(in)
	if err != nil {
		return nil, err
	}
	return kubernetesSelector{s}, nil
}

// Matches implements Selector.
func (s kubernetesSelector) Matches(l Labelled) bool { return s.Selector.Matches(labels.Set(l.Labels)) }

// A calicoSelector is an expression of Calico about a pod, a network set or a namespace.
type calicoSelector struct{ *labelexpr.Expr }

func (s calicoSelector) String() string { return "calico:" + s.Expr.String() }

// Matches implements Selector.
func (s calicoSelector) Matches(l Labelled) bool {
	return s.Holds(labelexpr.Place{All: true, Labels: l.label})
}

// label returns a label with those that Calico gives to its endpoints (libcalico-go/lib/backend/k8s/conversion).
func (l Labelled) label(name string) (string, bool) {
	given := ""
	switch name {
	case "projectcalico.org/name":
		given = l.Name
	case "projectcalico.org/namespace", "pcns.projectcalico.org/name":
		given = l.Namespace
	case "projectcalico.org/serviceaccount", "pcsa.projectcalico.org/name":
		given = l.Account
	case "projectcalico.org/orchestrator":
		if l.Namespace != "" { // a pod
			given = "k8s"
		}
	}
	if given != "" {
		return given, true
	}
	value, ok := l.Labels[name]
	return value, ok
}

// A calicoAccounts selects pods by the names of their service accounts, and perhaps by an expression as well.
type calicoAccounts struct {
	names []string // sorted
	expr  Selector // nil for no such condition
}

func (s calicoAccounts) String() string {
	text := "accounts:" + strings.Join(s.names, ",")
	if s.expr != nil {
		text += " " + s.expr.String()
	}
	return text
}

// Matches implements Selector.
func (s calicoAccounts) Matches(l Labelled) bool {
	return slices.Contains(s.names, l.Account) && (s.expr == nil || s.expr.Matches(l))
}
