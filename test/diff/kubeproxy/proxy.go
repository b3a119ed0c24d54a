package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-helpers/node/util/sysctl"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/kubernetes/pkg/proxy/apis/config"
	"k8s.io/kubernetes/pkg/proxy/iptables"
	"k8s.io/kubernetes/pkg/proxy/metrics"
	"k8s.io/kubernetes/pkg/proxy/nftables"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
	utiliptables "k8s.io/kubernetes/pkg/util/iptables"
)

const (
	modeNFTables = "nftables"
	modeIPTables = "iptables"
	primary      = "primary"
	// masqueradeBit is kube-proxy's default.
	masqueradeBit = 14
	// syncPeriod is never reached: nothing runs the proxiers' own loop.
	syncPeriod = time.Hour
)

type proxyConfig struct {
	mode, node        string
	nodeIPs           []netip.Addr
	nodePortAddresses []string
	podCIDRs          []string
	podLinks          string
	masqueradeAll     bool
}

// key names an object among all kinds.
type key struct{ kind, namespace, name string }

func keyOf(obj metav1.Object) key {
	return key{reflect.TypeOf(obj).Elem().Name(), obj.GetNamespace(), obj.GetName()}
}

// A change is a Request that has been read.
type change struct {
	replace       bool
	apply, remove []metav1.Object
}

// A kubeProxy is proxiers of one mode for both families and the objects they have been told of. It is not safe for
// concurrent use.
type kubeProxy struct {
	provider proxy.Provider
	node     string
	objects  map[key]metav1.Object
	labels   map[string]string
	cidrs    []string
	synced   bool
}

func newProxy(cfg proxyConfig) (*kubeProxy, error) {
	for _, program := range map[string][]string{modeNFTables: {"nft"}, modeIPTables: {"iptables", "ip6tables"}}[cfg.mode] {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s mode needs %s (Debian: nftables, iptables): %w", cfg.mode, program, err)
		}
	}
	metrics.RegisterMetrics(config.ProxyMode(cfg.mode))
	provider, err := cfg.provider()
	if err != nil {
		return nil, fmt.Errorf("make the %s proxiers: %w", cfg.mode, err)
	}
	return &kubeProxy{provider: provider, node: cfg.node, objects: map[key]metav1.Object{}}, nil
}

// provider makes the proxiers as createProxier in cmd/kube-proxy/app/server_linux.go does.
func (cfg proxyConfig) provider() (proxy.Provider, error) {
	ctx, recorder := context.Background(), events.NewFakeRecorder(0)
	recorder.Events = nil // drop them: nobody reads
	ips, detectors := cfg.families(), cfg.detectors()
	nodePorts := cfg.nodePorts()
	if cfg.mode == modeNFTables {
		return nftables.NewDualStackProxier(ctx, syncPeriod, 0, cfg.masqueradeAll, masqueradeBit, detectors, cfg.node, ips,
			recorder, nil, nodePorts, false)
	}
	return iptables.NewDualStackProxier(ctx, utiliptables.NewBestEffort(), sysctl.New(), syncPeriod, 0, cfg.masqueradeAll, true,
		masqueradeBit, detectors, cfg.node, ips, recorder, nil, nodePorts, false)
}

func (cfg proxyConfig) families() map[v1.IPFamily]net.IP {
	ips := map[v1.IPFamily]net.IP{v1.IPv4Protocol: net.IPv4zero, v1.IPv6Protocol: net.IPv6zero}
	for _, a := range cfg.nodeIPs {
		family := v1.IPv4Protocol
		if a.Is6() {
			family = v1.IPv6Protocol
		}
		ips[family] = a.AsSlice()
	}
	return ips
}

// nodePorts resolves "primary", which is the default of nftables mode (platformApplyDefaults), as newProxyServer does.
func (cfg proxyConfig) nodePorts() []string {
	wanted := cfg.nodePortAddresses
	if len(wanted) == 0 && cfg.mode == modeNFTables {
		wanted = []string{primary}
	}
	if !slices.Equal(wanted, []string{primary}) {
		return wanted
	}
	var prefixes []string
	for _, a := range cfg.nodeIPs {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()).String())
	}
	return prefixes
}

func (cfg proxyConfig) detectors() map[v1.IPFamily]proxyutil.LocalTrafficDetector {
	detectors := map[v1.IPFamily]proxyutil.LocalTrafficDetector{
		v1.IPv4Protocol: proxyutil.NewNoOpLocalDetector(), v1.IPv6Protocol: proxyutil.NewNoOpLocalDetector(),
	}
	if cfg.podLinks != "" {
		d := proxyutil.NewDetectLocalByInterfaceNamePrefix(cfg.podLinks)
		return map[v1.IPFamily]proxyutil.LocalTrafficDetector{v1.IPv4Protocol: d, v1.IPv6Protocol: d}
	}
	for family, cidrs := range proxyutil.MapCIDRsByIPFamily(cfg.podCIDRs) {
		detectors[family] = proxyutil.NewDetectLocalByCIDR(cidrs[0].String())
	}
	return detectors
}

// sync tells the proxiers of a change and has them write it. The time is that of both, for both families.
func (p *kubeProxy) sync(c change) (time.Duration, error) {
	failed, err := syncFailures()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	p.tell(c)
	if !p.synced {
		p.provider.OnEndpointSlicesSynced()
		p.synced = true
	}
	p.provider.OnServiceSynced() // the one call that syncs in the caller's goroutine
	took := time.Since(start)
	again, err := syncFailures()
	if err == nil && again > failed {
		err = errors.New("kube-proxy could not write its rules, its log says why")
	}
	return took, err
}

func (p *kubeProxy) tell(c change) {
	named := map[key]bool{}
	for _, obj := range c.apply {
		if !watched(obj) {
			c.remove = append(c.remove, obj)
			continue
		}
		named[keyOf(obj)] = true
		p.put(obj)
	}
	for _, obj := range c.remove {
		p.delete(keyOf(obj))
	}
	if c.replace {
		for k := range p.objects {
			if !named[k] {
				p.delete(k)
			}
		}
	}
	p.tellCluster()
}

func (p *kubeProxy) put(obj metav1.Object) {
	k := keyOf(obj)
	old, have := p.objects[k]
	if have && reflect.DeepEqual(old, obj) {
		return
	}
	if have && replaced(old, obj) {
		p.delete(k)
		have = false
	}
	p.objects[k] = obj
	switch o := obj.(type) {
	case *v1.Service:
		if have {
			p.provider.OnServiceUpdate(old.(*v1.Service), o)
		} else {
			p.provider.OnServiceAdd(o)
		}
	case *discovery.EndpointSlice:
		if have {
			p.provider.OnEndpointSliceUpdate(old.(*discovery.EndpointSlice), o)
		} else {
			p.provider.OnEndpointSliceAdd(o)
		}
	}
}

// replaced says whether an object is another one of the same name: the API server would have had it deleted first. A
// slice's address type cannot change, and proxiers are told by it.
func replaced(old, obj metav1.Object) bool {
	if old.GetUID() != obj.GetUID() {
		return true
	}
	slice, ok := obj.(*discovery.EndpointSlice)
	return ok && slice.AddressType != old.(*discovery.EndpointSlice).AddressType
}

func (p *kubeProxy) delete(k key) {
	old, have := p.objects[k]
	if !have {
		return
	}
	delete(p.objects, k)
	switch o := old.(type) {
	case *v1.Service:
		p.provider.OnServiceDelete(o)
	case *discovery.EndpointSlice:
		p.provider.OnEndpointSliceDelete(o)
	}
}

// tellCluster tells of the node's labels and the Service CIDRs when they are others than before.
func (p *kubeProxy) tellCluster() {
	labels, cidrs := map[string]string{}, []string{}
	for _, obj := range p.objects {
		switch o := obj.(type) {
		case *v1.Node:
			if o.Name == p.node {
				labels = o.Labels
			}
		case *networking.ServiceCIDR:
			cidrs = append(cidrs, o.Spec.CIDRs...)
		}
	}
	slices.Sort(cidrs)
	cidrs = slices.Compact(cidrs)
	moved := !slices.Equal(cidrs, p.cidrs)
	if moved {
		p.provider.OnServiceCIDRsChanged(cidrs)
	}
	// Told of labels, a proxier writes all rules anew: before it does, it does not look at the CIDRs either.
	if moved || !maps.Equal(labels, p.labels) {
		p.provider.OnTopologyChange(maps.Clone(labels))
	}
	p.labels, p.cidrs = labels, cidrs
}

// syncFailures is how often rules could not be written in this process, by kube-proxy's own metrics: a sync returns no
// error.
func syncFailures() (failures float64, err error) {
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		return 0, fmt.Errorf("read kube-proxy's metrics: %w", err)
	}
	for _, f := range families {
		name := f.GetName()
		if !strings.HasSuffix(name, "_failures_total") || !strings.HasPrefix(name, "kubeproxy_sync_proxy_rules_") {
			continue
		}
		if strings.Contains(name, "cleanup") {
			continue // of chains that nothing leads to any more; tried again
		}
		for _, m := range f.GetMetric() {
			failures += m.GetCounter().GetValue()
		}
	}
	return failures, nil
}
