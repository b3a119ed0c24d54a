package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
)

// An unreadable object is an error with what is in force as long as no good state of the object is known.
type unreadable struct {
	error
	instead func(*Edit)
}

func (u *unreadable) Unwrap() error { return u.error }

// policyKind is what a kind that is read for policies alone is called here, empty for another.
func (h *manifestHeader) policyKind() string {
	for kind, api := range policyAPIKinds() {
		if api == (apiKind{h.APIVersion, h.Kind}) && kind != kindPolicyPod && kind != kindPolicyNode {
			return kind
		}
	}
	return ""
}

// kindName is what the object's kind is called here.
func (h *manifestHeader) kindName() string {
	if kind := h.policyKind(); kind != "" {
		return kind
	}
	return h.Kind
}

// isNamespaced reports whether objects of a kind that is read for policies alone have a namespace.
func isNamespaced(kind string) bool {
	return kind == kindNetworkPolicy || kind == kindCalicoPolicy || kind == kindCalicoSet
}

// addPolicy reads an object that policies are made of. Of custom resources only what is read is checked: their types are not
// known in full.
func (m *manifestSet) addPolicy(where, kind string, h *manifestHeader, object []byte) error {
	name, ok := h.identity()
	if !ok && isNamespaced(kind) {
		return checkNames(name.Namespace, name.Name, validation.IsDNS1123Subdomain)
	} else if !ok {
		return checkName("metadata.name", name.Name, validation.IsDNS1123Subdomain)
	}
	out := manifestPolicy(kind, object, name.Namespace)
	if out.err != nil {
		inner := errors.Unwrap(out.err)
		if inner == nil {
			inner = out.err
		}
		return &unreadable{inner, out.instead} // the place says already which object it is
	}
	if name.Namespace != "" {
		m.namespaces[name.Namespace] = struct{}{}
	}
	out.add(&m.objects)
	return m.define(where, kind, name)
}

func manifestPolicy(kind string, object []byte, namespace string) outcome {
	if kind != kindNetworkPolicy {
		return policyOutcome(kind, func(into metav1.Object) error {
			err := json.Unmarshal(object, into)
			into.SetNamespace(namespace)
			return err
		})
	}
	var unknown error
	decode := func(into metav1.Object) (err error) {
		unknown, err = decodeRules(object, into)
		into.SetNamespace(namespace)
		return err
	}
	return convertPolicy(decode, func(in *networkingv1.NetworkPolicy) (*NetworkPolicy, error) {
		policy, err := networkPolicyFrom(in)
		if err == nil && unknown != nil {
			err = fmt.Errorf("convert NetworkPolicy %s: %w", policy.Name, unknown)
			policy = policy.isolating(err)
		}
		return policy, err
	}, networkPolicyPlace())
}

// decodeRules is decodeStrict for a NetworkPolicy, but fields that are not known in its rules leave it readable whom it isolates:
// they are another error.
func decodeRules(object []byte, into any) (unknown, err error) {
	strict, err := kjson.UnmarshalStrict(object, into)
	if err != nil {
		return nil, err
	}
	faults := make([]string, len(strict))
	for i := range strict {
		faults[i] = strict[i].Error()
		if !strings.Contains(faults[i], `"spec.ingress[`) && !strings.Contains(faults[i], `"spec.egress[`) {
			return nil, strict[i]
		}
	}
	if len(faults) == 0 {
		return nil, nil
	}
	return errors.New(strings.Join(faults, "; ")), nil
}

// addPolicyPod keeps what policies read of a pod of any node.
func (m *manifestSet) addPolicyPod(in *corev1.Pod, local bool) error {
	if !local && in.Spec.NodeName == "" {
		return nil
	}
	convert := policyPodFrom
	if local {
		convert = localPodFrom
	}
	pod, err := convert(in, &m.share)
	if err != nil {
		return errors.Unwrap(err)
	}
	m.objects.PolicyPods = append(m.objects.PolicyPods, pod)
	return nil
}

// labelNamespaces gives every namespace, also one that objects are merely in, the label that the API server gives it.
func (m *manifestSet) labelNamespaces(all *Objects) {
	labels := make(map[string]map[string]string, len(all.Namespaces))
	for _, name := range all.Namespaces {
		with := maps.Clone(all.NamespaceLabels[name])
		if with == nil {
			with = make(map[string]string, 1)
		}
		with[corev1.LabelMetadataName] = name
		labels[name] = with
	}
	all.NamespaceLabels = labels
}
