package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

const policiesPath = "/v1/policies"

// A policiesView is what this node makes of policies.
type policiesView struct {
	// Enforced says whether this node enforces policies at all.
	Enforced bool `json:"enforced"`
	// Generation counts the changes of what the kernel enforces.
	Generation uint32 `json:"generation"`
	// Failure is why the kernel enforces earlier policies than those below, empty if it does not.
	Failure  string          `json:"failure,omitempty"`
	Policies []policyView    `json:"policies"`
	Pods     []policyPodView `json:"pods"` // of this node
	Maps     []policyMapView `json:"maps"`
}

// A policyView is one object.
type policyView struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// State is enforced, pending or refused; the latter has a reason, and what was enforced of it before stays.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Subjects are the pods of this node that it selects.
	Subjects []string `json:"subjects"`
}

// A policyPodView is a pod of this node.
type policyPodView struct {
	Pod       string   `json:"pod"`
	Addresses []string `json:"addresses"`
	// Ingress and Egress are the policies that isolate it in that direction.
	Ingress []string `json:"ingress"`
	Egress  []string `json:"egress"`
	// Generation is the last one by which the pod was as the cluster wants it.
	Generation uint32 `json:"generation"`
	// Denied is how many of its packets the kernel has dropped because of policies, Full how many of them for want of room.
	Denied uint64 `json:"denied"`
	Full   uint64 `json:"full"`
}

// A policyMapView is one of the kernel's tables.
type policyMapView struct {
	Map     string `json:"map"`
	Entries int    `json:"entries"`
	Max     int    `json:"max"`
}

const (
	policyEnforced = "enforced"
	policyPending  = "pending"
	policyRefused  = "refused"
)

func printPolicies(out io.Writer, body json.RawMessage) error {
	var v policiesView
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	if !v.Enforced {
		_, err := fmt.Fprintln(out, "policies are not enforced: policy.enabled is false")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tNAMESPACE\tNAME\tSTATE\tPODS HERE\tREASON")
	for _, p := range v.Policies {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Kind, dash(p.Namespace), p.Name, p.State, dash(strings.Join(p.Subjects, " ")), dash(p.Reason))
	}
	fmt.Fprintln(w, "\nPOD\tADDRESSES\tINGRESS\tEGRESS\tDENIED\tGENERATION")
	for _, p := range v.Pods {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\n", p.Pod, strings.Join(p.Addresses, " "), isolation(p.Ingress), isolation(p.Egress), p.Denied, p.Generation)
	}
	for _, p := range v.Pods {
		if p.Full > 0 {
			fmt.Fprintf(w, "\n%s was refused connections for want of room, %d packets: the table of connections is full, or the pod has its quarter of it; set policy.flows to more\n", p.Pod, p.Full)
		}
	}
	if v.Failure != "" {
		fmt.Fprintf(w, "\nthe kernel enforces what it did before, generation %d: %s\n", v.Generation, v.Failure)
	}
	return w.Flush()
}

func isolation(by []string) string {
	if len(by) == 0 {
		return "open"
	}
	return strings.Join(by, ", ")
}
