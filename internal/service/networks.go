package service

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
)

// networks is what Config.Networks has been told.
type networks struct {
	told            bool
	service, spared []netip.Prefix
	foreign         map[cluster.Name][]netip.Addr // cluster IPs of Services of other proxies
}

// followNetworks says where Services have their addresses when a Change makes that another thing. A proxy that serves only
// Services of its name leaves the networks to the one that serves the others. The caller holds mu.
func (r *Reconciler) followNetworks(change cluster.Change) {
	n := &r.networks
	if r.cfg.Node.ProxyName != "" {
		return
	}
	if !r.noteForeign(change) && n.told && !change.Full && len(change.ServiceCIDRs) == 0 {
		return
	}
	service, spared := slices.Clone(r.cfg.CIDRs), []netip.Prefix(nil)
	if len(service) == 0 {
		service = change.Snapshot.ServiceCIDRs()
	}
	for _, addrs := range n.foreign {
		for _, a := range addrs {
			spared = append(spared, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	slices.SortFunc(spared, netip.Prefix.Compare)
	spared = slices.Compact(spared)
	if n.told && slices.Equal(service, n.service) && slices.Equal(spared, n.spared) {
		return
	}
	n.told, n.service, n.spared = true, service, spared
	r.cfg.Networks(service, spared)
}

// noteForeign keeps the cluster IPs of Services of other proxies, and reports whether that may have changed.
func (r *Reconciler) noteForeign(change cluster.Change) (changed bool) {
	n := &r.networks
	if n.foreign == nil || change.Full {
		n.foreign = map[cluster.Name][]netip.Addr{}
		for svc := range change.Snapshot.Services() {
			n.note(svc.Name, r.foreignAddrs(svc))
		}
		return true
	}
	for _, name := range change.Services {
		changed = n.note(name, r.foreignAddrs(change.Snapshot.Service(name))) || changed
	}
	return changed
}

// foreignAddrs are the cluster IPs of a Service that is another proxy's; there may be no Service.
func (r *Reconciler) foreignAddrs(svc *cluster.Service) []netip.Addr {
	if svc == nil || r.cfg.Node.serves(svc) {
		return nil
	}
	return svc.ClusterIPs
}

func (n *networks) note(name cluster.Name, addrs []netip.Addr) (changed bool) {
	if slices.Equal(addrs, n.foreign[name]) {
		return false
	}
	if len(addrs) == 0 {
		delete(n.foreign, name)
	} else {
		n.foreign[name] = addrs
	}
	return true
}
