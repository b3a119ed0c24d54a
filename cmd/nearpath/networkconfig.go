package main

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"path/filepath"
	"slices"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/strict"
)

// networkConfig says how pods are wired.
type networkConfig struct {
	// Datapath is that of pods that ask for none.
	Datapath cni.Datapath `json:"datapath"`
	// Sandboxed are RuntimeClasses, * standing for any characters, whose pods run behind a virtual machine or a network
	// stack of their own: these take a veth over, or a device, and no ipvlan.
	Sandboxed []string `json:"sandboxed"`
	// MeshContainers are names of containers, * standing for any characters, that make a pod one of a service mesh: Services
	// are translated in its packets and not in its sockets, so that its proxy sees their addresses.
	MeshContainers []string `json:"meshContainers"`
	// RuntimeClasses are the datapaths of pods of certain RuntimeClasses.
	RuntimeClasses map[string]cni.Datapath `json:"runtimeClasses"`
	// HostNetworks are where pods send by the node whatever their datapath, beside the node's own addresses.
	HostNetworks []netip.Prefix `json:"hostNetworks"`
	// HostRoot is the root of the node's file system as the agent sees it, below which drop-ins keep systemd-networkd and
	// NetworkManager off the ENIs. Empty: none are written.
	HostRoot string `json:"hostRoot"`
}

// exclusiveConfig bounds the ENIs that are given to pods whole.
type exclusiveConfig struct {
	// Max is the most of them, 0 for as many as the instance type allows.
	Max int `json:"max"`
	// MinIdle are kept attached and idle; more than MaxIdle idle ones are given back.
	MinIdle int `json:"minIdle"`
	MaxIdle int `json:"maxIdle"`
}

// sandboxedByDefault are what sandboxed runtimes and their handlers are usually called.
var sandboxedByDefault = []string{"kata*", "gvisor", "runsc*", "runv", "rund", "firecracker*", "quark", "nabla", "sysbox-kata*"}

var datapaths = []cni.Datapath{cni.Veth, cni.IPVlan, cni.Exclusive}

func (c networkConfig) check() []strict.Rule {
	rules := []strict.Rule{
		aDatapath("network.datapath", c.Datapath), disjoint("network.hostNetworks", c.HostNetworks),
		{OK: c.HostRoot == "" || filepath.IsAbs(c.HostRoot), Path: "network.hostRoot", Value: c.HostRoot, Fix: "use an absolute path, or leave it empty"},
	}
	rules = append(rules, patterns("network.sandboxed", c.Sandboxed, "a RuntimeClass")...)
	rules = append(rules, patterns("network.meshContainers", c.MeshContainers, "a container")...)
	for _, class := range slices.Sorted(maps.Keys(c.RuntimeClasses)) {
		where, datapath := "network.runtimeClasses."+class, c.RuntimeClasses[class]
		rules = append(rules, aDatapath(where, datapath), strict.Rule{
			OK: datapath != cni.IPVlan || !c.sandboxed(class), Path: where, Value: datapath,
			Fix: "it is one of network.sandboxed, which ipvlan does not work for: use veth or exclusive, or change that list",
		})
	}
	for i, p := range c.HostNetworks {
		rules = append(rules, strict.Rule{
			OK: p == p.Masked(), Path: fmt.Sprintf("network.hostNetworks[%d]", i), Value: p, Fix: fmt.Sprintf("use the network, %s", p.Masked()),
		})
	}
	return rules
}

func patterns(where string, list []string, of string) (rules []strict.Rule) {
	for i, pattern := range list {
		_, err := path.Match(pattern, "")
		rules = append(rules, strict.Rule{
			OK: err == nil && pattern != "", Path: fmt.Sprintf("%s[%d]", where, i), Value: pattern, Fix: "use the name of " + of + ", * for any characters",
		})
	}
	return rules
}

func aDatapath(path string, d cni.Datapath) strict.Rule {
	return strict.Rule{OK: slices.Contains(datapaths, d), Path: path, Value: d, Fix: "use veth, ipvlan or exclusive"}
}

// sandboxed says whether pods of the RuntimeClass have a network stack that is not the node's kernel's.
func (c networkConfig) sandboxed(class string) bool {
	return matchesAny(c.Sandboxed, class)
}
