package service

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
)

// maxSpared is how many addresses are spared one by one. What the programs are told has room for 1024 networks, and those of
// the node must fit beside.
const maxSpared = 512

// networks is what Config.Networks has been told.
type networks struct {
	told            bool
	service, spared []netip.Prefix
	foreign         map[cluster.Name][]netip.Addr // cluster IPs of Services of other proxies
	coarse          bool                          // there are too many of those: all cluster IPs are spared
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
	service, spared = r.bound(service, spared)
	if n.told && slices.Equal(service, n.service) && slices.Equal(spared, n.spared) {
		return
	}
	n.told, n.service, n.spared = true, service, spared
	r.cfg.Networks(service, spared)
}

// bound spares all networks of Services when too many addresses are to be spared: better that what nobody serves is forwarded
// than that what another proxy serves is lost.
func (r *Reconciler) bound(service, spared []netip.Prefix) (_, _ []netip.Prefix) {
	many := len(spared) > maxSpared
	if many && !r.networks.coarse {
		r.cfg.Log.Warn("what is sent to cluster IPs that no Service has is not dropped: too many are other proxies'", "others", len(spared), "limit", maxSpared)
	}
	r.networks.coarse = many
	if many {
		return nil, service
	}
	return service, spared
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
