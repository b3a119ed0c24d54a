package main

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/strict"
)

// servicesConfig says how Services are served, where their objects leave it open.
type servicesConfig struct {
	// NodePortAddresses are those addresses of the node that node ports are served on: networks, or "primary" alone. A family
	// without a network here has all of its addresses; empty: all of both.
	NodePortAddresses []string `json:"nodePortAddresses"`
	// CIDRs are what Services get their cluster IPs from; empty: what the API's ServiceCIDR objects say, if it has any.
	CIDRs []netip.Prefix `json:"cidrs"`
	// ProxyName is that of the Services that are served, as their label service.kubernetes.io/service-proxy-name has it;
	// empty: those without the label.
	ProxyName string `json:"proxyName"`
	// ExternalIPs is whether spec.externalIPs of Services count.
	ExternalIPs bool `json:"externalIPs"`
	// HealthzAddress and MetricsAddress are kube-proxy's healthzBindAddress and metricsBindAddress; empty: not served.
	HealthzAddress netip.AddrPort `json:"healthzAddress"`
	MetricsAddress netip.AddrPort `json:"metricsAddress"`
	// TakeOver removes what kube-proxy left on the node.
	TakeOver bool `json:"takeOver"`
}

// primaryOnly is kube-proxy's word for the node's own address of each family.
const primaryOnly = "primary"

// defaultServices are what counts for a proxy of that name. Beside one that has a name there is kube-proxy: its addresses are
// its own, and so are its rules.
func defaultServices(proxyName string) servicesConfig {
	c := servicesConfig{ExternalIPs: true}
	if proxyName == "" {
		c.HealthzAddress, c.MetricsAddress = netip.MustParseAddrPort("0.0.0.0:10256"), netip.MustParseAddrPort("127.0.0.1:10249")
		c.TakeOver = true
	}
	return c
}

func (c servicesConfig) check() []strict.Rule {
	_, err := c.nodePorts()
	return []strict.Rule{
		disjoint("services.cidrs", c.CIDRs),
		{
			OK: len(validation.IsValidLabelValue(c.ProxyName)) == 0, Path: "services.proxyName", Value: c.ProxyName, Fix: "use a value that a label can have",
		},
		{
			OK: c.ProxyName == "" || !c.TakeOver, Path: "services.takeOver", Value: c.TakeOver,
			Fix: "leave it out: with services.proxyName, kube-proxy goes on to serve the Services without the label",
		},
		{OK: err == nil, Path: "services.nodePortAddresses", Value: c.NodePortAddresses, Fix: `use networks such as 10.0.0.0/8, or "primary" alone`},
		{
			OK: !c.MetricsAddress.IsValid() || c.HealthzAddress != c.MetricsAddress, Path: "services.metricsAddress", Value: c.MetricsAddress,
			Fix: "use another address than services.healthzAddress has",
		},
	}
}

// nodePorts is what nodePortAddresses asks for; an error if it cannot be meant.
func (c servicesConfig) nodePorts() (out hostnet.NodePorts, err error) {
	if len(c.NodePortAddresses) == 1 && c.NodePortAddresses[0] == primaryOnly {
		return hostnet.NodePorts{Primary: true}, nil
	}
	for _, text := range c.NodePortAddresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return hostnet.NodePorts{}, err
		}
		out.Networks = append(out.Networks, p.Masked())
	}
	return out, nil
}
