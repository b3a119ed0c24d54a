package main

import (
	"fmt"

	"github.com/nearpath/nearpath/internal/strict"
)

// policyConfig says how NetworkPolicy is enforced.
type policyConfig struct {
	// Enabled is whether it is enforced at all. Without, policies are not read and the programs look nothing up.
	Enabled bool `json:"enabled"`
	// Flows is how many connections of this node's pods are remembered.
	Flows int `json:"flows"`
	// LogDrops is whether packets that a policy drops are logged.
	LogDrops bool `json:"logDrops"`
}

// The table of connections takes memory for those it holds only, some 200 bytes each.
const (
	defaultPolicyFlows = 1 << 18
	leastPolicyFlows   = 1 << 10
	mostPolicyFlows    = 1 << 24
)

func defaultPolicy() policyConfig {
	return policyConfig{Enabled: true, Flows: defaultPolicyFlows, LogDrops: true}
}

func (c policyConfig) check() []strict.Rule {
	return []strict.Rule{{
		OK: c.Flows >= leastPolicyFlows && c.Flows <= mostPolicyFlows, Path: "policy.flows", Value: c.Flows,
		Fix: fmt.Sprintf("use a number from %d to %d", leastPolicyFlows, mostPolicyFlows),
	}}
}
