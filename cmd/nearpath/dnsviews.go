package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/nearpath/nearpath/autopath"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/nodelocaldns"
)

// registerDNSViews adds what "nearpath get dns" and "nearpath explain dns" ask.
func (a *agent) registerDNSViews(api *agentapi.Server) {
	api.Handle(dnsPath, func(context.Context) (any, error) { return newNodeDNSView(prometheus.GathererFunc(corednsMetrics)) })
	agentapi.Serve(api, flushDNSPath, func(_ context.Context, r flushRequest) (any, error) { return a.external.Flush(r.Name), nil })
	agentapi.Serve(api, explainDNSPath, func(ctx context.Context, r dnsRequest) (any, error) { return a.explainLookup(ctx, r) })
}

// newNodeDNSView reads what CoreDNS's plugins count.
func newNodeDNSView(source prometheus.Gatherer) (nodeDNSView, error) {
	families, err := source.Gather()
	if err != nil {
		return nodeDNSView{}, fmt.Errorf("read the metrics of the node's DNS: %w", err)
	}
	var v nodeDNSView
	for _, f := range families {
		switch f.GetName() {
		case "coredns_dns_requests_total":
			v.Questions = sumOf(f)
		case "coredns_cache_hits_total":
			v.CacheHits = sumOf(f)
		case "coredns_cache_misses_total":
			v.CacheMisses = sumOf(f)
		case "coredns_proxy_request_duration_seconds":
			v.Upstream = sumOf(f)
		}
	}
	return v, nil
}

// sumOf adds what the metrics of a family have counted.
func sumOf(f *dto.MetricFamily) (n uint64) {
	for _, m := range f.GetMetric() {
		n += uint64(m.GetCounter().GetValue()) + m.GetHistogram().GetSampleCount()
	}
	return n
}

// explainLookup says which questions a pod's resolver asks for a name, and who answers each in userspace.
func (a *agent) explainLookup(ctx context.Context, r dnsRequest) (agentLookupView, error) {
	addr, err := netip.ParseAddr(r.Address)
	if err != nil {
		return agentLookupView{}, fmt.Errorf("address: %w", err)
	}
	scope, known := a.scopes.Scope(ctx, addr)
	view := agentLookupView{Autopath: "the resolver asks one by one"}
	if known {
		view.Search, view.Ndots = scope.Search(), scope.Ndots()
	}
	names := searchedNames(r.Name, view.Search, view.Ndots)
	if len(names) == 1 {
		view.Autopath = "the name is asked for as it is"
	} else if a.live.Load().DNS.Autopath {
		view.Autopath = autopathText(scope, names[0], r.Type)
	}
	for _, name := range names {
		view.Questions = append(view.Questions, a.answerLookup(name, r.Type))
	}
	return view, nil
}

// autopathText says whether the first question of a search is answered with the end of it.
func autopathText(scope autopath.Scope, first string, qtype uint16) string {
	if _, reason := scope.Plan(first, qtype); reason != autopath.NoReason {
		return "the resolver asks one by one: " + strings.ReplaceAll(reason.String(), "_", " ")
	}
	return "the agent answers the first question with the end of the search"
}

// searchedNames are what resolvers ask for, in their order: the name itself first if it has as many dots as ndots.
func searchedNames(name string, search []string, ndots int) []string {
	if dns.IsFqdn(name) || len(search) == 0 {
		return []string{dns.Fqdn(name)}
	}
	var names []string
	for _, domain := range search {
		names = append(names, dns.Fqdn(name+"."+strings.TrimSuffix(domain, ".")))
	}
	if strings.Count(name, ".") >= ndots {
		return append([]string{dns.Fqdn(name)}, names...)
	}
	return append(names, dns.Fqdn(name))
}

// answerLookup says who answers a question in userspace.
func (a *agent) answerLookup(name string, qtype uint16) agentQuestion {
	zone := nodelocaldns.Zone{Domain: a.cfg.ClusterDomain, TTL: clusterTTL}
	if service, err := parseName(a.cfg.DNS.Service); err == nil {
		zone.DNSService = service
	}
	r := zone.Answer(a.served.Load(), dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET})
	switch {
	case !r.Ours:
		return agentQuestion{Name: name, Layer: "the agent answers from its cache, or asks an upstream"}
	case r.Chase != "":
		return agentQuestion{
			Name: name, Layer: "the agent answers from the cluster's zone, and looks for " + r.Chase + " next:", Status: statusText(r.Rcode, r.Answer), Records: recordTexts(r.Answer),
		}
	}
	return agentQuestion{Name: name, Layer: "the agent answers from the cluster's zone:", Status: statusText(r.Rcode, r.Answer), Records: recordTexts(r.Answer)}
}
