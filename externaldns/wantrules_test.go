package externaldns

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nearpath/nearpath/internal/cluster"
)

func TestWantsOfIngresses(t *testing.T) {
	t.Parallel()
	ingress := func(class string, hosts []string, pairs ...string) cluster.Objects {
		return cluster.Objects{Ingresses: []*cluster.Ingress{{
			Meta: shopMeta("web", pairs...), Class: class, Hosts: hosts, LoadBalancer: cluster.LoadBalancer{Addrs: ips("10.1.1.1")},
		}}}
	}
	for name, tt := range map[string]wantCase{
		"hosts and annotation": {objects: ingress("alb", []string{"a.corp", "A.corp"}, "hostname", "b.corp"), want: []string{"a.corp 60 A 10.1.1.1", "b.corp 60 A 10.1.1.1"}},
		"hosts only":           {objects: ingress("alb", []string{"a.corp"}, "hostname", "b.corp", "ingress-hostname-source", "defined-hosts-only"), want: []string{"a.corp 60 A 10.1.1.1"}},
		"annotation only":      {objects: ingress("alb", []string{"a.corp"}, "hostname", "b.corp", "ingress-hostname-source", "Annotation-Only"), want: []string{"b.corp 60 A 10.1.1.1"}},
		"of another class":     {rules: Rules{IngressClasses: []string{"mse"}}, objects: ingress("alb", []string{"a.corp"})},
		"of the class":         {rules: Rules{IngressClasses: []string{"mse"}}, objects: ingress("mse", []string{"*.a.corp"}), want: []string{"*.a.corp 60 A 10.1.1.1"}},
		"target":               {objects: ingress("", []string{"a.corp"}, "target", "lb.corp"), want: []string{"a.corp 60 CNAME lb.corp"}},
		"template where no host is": {
			rules: Rules{Templates: []string{"{{.Name}}.t.corp"}}, objects: ingress("", nil), want: []string{"web.t.corp 60 A 10.1.1.1"},
		},
		"no template where one is": {
			rules: Rules{Templates: []string{"{{.Name}}.t.corp"}}, objects: ingress("", []string{"a.corp"}), want: []string{"a.corp 60 A 10.1.1.1"},
		},
		"both": {
			rules: Rules{Templates: []string{"{{.Name}}.t.corp"}, Combine: true}, objects: ingress("", []string{"a.corp"}),
			want: []string{"a.corp 60 A 10.1.1.1", "web.t.corp 60 A 10.1.1.1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}

func TestWantsOfHTTPRoutes(t *testing.T) {
	t.Parallel()
	infra := cluster.Name{Namespace: "infra", Name: "gw"}
	to := func(section string, port uint16) []cluster.ParentRef {
		return []cluster.ParentRef{{Gateway: infra, Section: section, Port: port}}
	}
	listener := func(name, host string, port uint16) cluster.Listener {
		return cluster.Listener{Name: name, Hostname: host, Port: port, From: "All"}
	}
	team, err := labels.Parse("team=a")
	if err != nil {
		t.Fatal(err)
	}
	selected := cluster.Listener{Name: "s", From: "Selector", Selector: team}
	same := cluster.Listener{Name: "same", From: "Same"}
	route := func(hosts []string, parents []cluster.ParentRef, listeners []cluster.Listener, pairs ...string) cluster.Objects {
		return cluster.Objects{
			HTTPRoutes: []*cluster.HTTPRoute{{Meta: shopMeta("web", pairs...), Hostnames: hosts, Parents: parents}},
			Gateways:   []*cluster.Gateway{{Meta: cluster.Meta{Name: infra}, Listeners: listeners, Addresses: []string{"10.1.1.1", "lb.example.com"}[:1]}},
			Namespaces: []string{"shop"}, NamespaceLabels: map[string]map[string]string{"shop": {"team": "a"}},
		}
	}
	annotated := func(objects cluster.Objects, pairs ...string) cluster.Objects {
		objects.Gateways[0].Annotations = noted(pairs...)
		return objects
	}
	any := []cluster.Listener{listener("http", "", 80)}
	for name, tt := range map[string]wantCase{
		"any listener":               {objects: route([]string{"a.corp"}, to("", 0), any), want: []string{"a.corp 60 A 10.1.1.1"}},
		"no parent has accepted it":  {objects: route([]string{"a.corp"}, nil, any)},
		"the listener's host":        {objects: route(nil, to("", 0), []cluster.Listener{listener("http", "L.corp", 80)}), want: []string{"l.corp 60 A 10.1.1.1"}},
		"nobody has a host":          {objects: route(nil, to("", 0), any)},
		"a wildcard for the route":   {objects: route([]string{"*.corp", "b.org"}, to("", 0), []cluster.Listener{listener("http", "x.y.corp", 80)}), want: []string{"x.y.corp 60 A 10.1.1.1"}},
		"a wildcard of the listener": {objects: route([]string{"a.corp", "*.a.corp", "corp"}, to("", 0), []cluster.Listener{listener("http", "*.corp", 80)}), want: []string{"*.a.corp 60 A 10.1.1.1", "a.corp 60 A 10.1.1.1"}},
		"of a section":               {objects: route([]string{"a.corp"}, to("tls", 0), any)},
		"of a port":                  {objects: route([]string{"a.corp"}, to("", 443), any)},
		"same namespace only":        {objects: route([]string{"a.corp"}, to("", 0), []cluster.Listener{same})},
		"selected namespace":         {objects: route([]string{"a.corp"}, to("", 0), []cluster.Listener{selected}), want: []string{"a.corp 60 A 10.1.1.1"}},
		"annotation":                 {objects: route(nil, to("", 0), any, "hostname", "h.corp", "ttl", "30"), want: []string{"h.corp 30 A 10.1.1.1"}},
		"hosts of the spec only":     {objects: route(nil, to("", 0), any, "hostname", "h.corp", "gateway-hostname-source", "defined-hosts-only")},
		"target of the gateway":      {objects: annotated(route([]string{"a.corp"}, to("", 0), any), "target", "lb.corp"), want: []string{"a.corp 60 CNAME lb.corp"}},
		"the gateway is another's":   {objects: annotated(route([]string{"a.corp"}, to("", 0), any), "controller", "x")},
		"out of scope but for a listener": {
			rules: Rules{Domains: []string{"a.corp"}}, objects: route([]string{"*.corp"}, to("", 0), []cluster.Listener{listener("http", "x.a.corp", 80)}),
			want: []string{"x.a.corp 60 A 10.1.1.1"},
		},
		"a bad host": {objects: route([]string{"a_b..corp"}, to("", 0), any), problems: []string{"HTTPRoute web InvalidName"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}

func TestWantsOfDNSEndpoints(t *testing.T) {
	t.Parallel()
	endpoint := func(records ...cluster.RecordSet) cluster.Objects {
		return cluster.Objects{DNSEndpoints: []*cluster.DNSEndpoint{{Meta: shopMeta("extra", "ttl", "5"), Records: records}}}
	}
	for name, tt := range map[string]wantCase{
		"every type": {
			objects: endpoint(
				cluster.RecordSet{Name: "A.corp.", Type: "a", TTL: 30, Targets: []string{"10.0.0.1", "10.0.0.2"}},
				cluster.RecordSet{Name: "a.corp", Type: "AAAA", Targets: []string{"fd00:0::1"}},
				cluster.RecordSet{Name: "c.corp", Type: "CNAME", Targets: []string{"X.example.com."}},
				cluster.RecordSet{Name: "a.corp", Type: "TXT", Targets: []string{`"v=1 a,b"`}},
				cluster.RecordSet{Name: "_x._tcp.corp", Type: "SRV", Targets: []string{"0  05 80 A.corp."}},
				cluster.RecordSet{Name: "1.0.0.10.in-addr.arpa", Type: "PTR", Targets: []string{"a.corp."}},
			),
			want: []string{
				"1.0.0.10.in-addr.arpa 60 PTR a.corp", "_x._tcp.corp 60 SRV 0 5 80 a.corp", "a.corp 30 A 10.0.0.1", "a.corp 30 A 10.0.0.2",
				"a.corp 60 AAAA fd00::1", "a.corp 60 TXT v=1 a,b", "c.corp 60 CNAME x.example.com",
			},
		},
		"what cannot be": {
			objects: endpoint(
				cluster.RecordSet{Name: "a.corp", Type: "MX", Targets: []string{"10 m.corp"}},
				cluster.RecordSet{Name: "a..corp", Type: "A", Targets: []string{"10.0.0.1"}},
				cluster.RecordSet{Name: "a.corp", Type: "A", Targets: []string{"fd00::1", "10.0.0.3"}},
				cluster.RecordSet{Name: "s.corp", Type: "SRV", Targets: []string{"0 70000 80 a.corp", "1 2 3"}},
				cluster.RecordSet{Name: "t.corp", Type: "TXT", Targets: []string{"", "a\nb"}},
				cluster.RecordSet{Name: "p.corp", Type: "PTR", Targets: []string{"a.corp"}},
			),
			want: []string{"a.corp 60 A 10.0.0.3"},
			problems: []string{
				"DNSEndpoint extra InvalidName", "DNSEndpoint extra InvalidName", "DNSEndpoint extra InvalidValue", "DNSEndpoint extra InvalidValue",
				"DNSEndpoint extra InvalidValue", "DNSEndpoint extra InvalidValue", "DNSEndpoint extra InvalidValue", "DNSEndpoint extra UnsupportedType",
			},
		},
		"a TTL that is not taken": {
			objects:  endpoint(cluster.RecordSet{Name: "a.corp", Type: "A", TTL: 300, Targets: []string{"10.0.0.1"}}),
			want:     []string{"a.corp 60 A 10.0.0.1"},
			problems: []string{"DNSEndpoint extra TTLAdjusted"}, message: "spec.endpoints[0].recordTTL: PrivateZone does not take 300 s, 60 s is used",
		},
		"out of scope": {
			rules:   Rules{Domains: []string{"org"}},
			objects: endpoint(cluster.RecordSet{Name: "a.corp", Type: "A", Targets: []string{"10.0.0.1"}}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	asking := func(pairs ...string) cluster.Objects {
		return services(testService(corev1.ServiceTypeClusterIP, append([]string{"internal-hostname", "web.corp", "target", "10.9.9.9"}, pairs...)...))
	}
	labelled := asking()
	labelled.Services[0].Exposure.Labels = map[string]string{"app": "web", "tier": "front"}
	former := asking()
	former.Services[0].Exposure.Annotations = map[string]string{
		prefixBefore + "internal-hostname": "before.corp", prefixBefore + "target": "10.8.8.8", prefixNow + "target": "10.9.9.9",
	}
	published := []string{"web.corp 60 A 10.9.9.9"}
	for name, tt := range map[string]wantCase{
		"either prefix, today's first":     {objects: former, want: []string{"before.corp 60 A 10.9.9.9"}},
		"controller is ours":               {objects: asking("controller", "dns-controller"), want: published},
		"controller is another":            {objects: asking("controller", "x")},
		"namespace":                        {rules: Rules{Namespaces: []string{"other"}}, objects: asking()},
		"namespace excluded":               {rules: Rules{Namespaces: []string{"shop"}, ExcludeNamespaces: []string{"shop"}}, objects: asking()},
		"labels":                           {rules: Rules{Labels: "app in (web,api)"}, objects: labelled, want: published},
		"labels, others":                   {rules: Rules{Labels: "app=api"}, objects: labelled},
		"labels excluded":                  {rules: Rules{ExcludeLabels: "tier=front"}, objects: labelled},
		"domain":                           {rules: Rules{Domains: []string{".Corp."}}, objects: asking(), want: published},
		"domain itself":                    {rules: Rules{Domains: []string{"web.corp"}}, objects: asking(), want: published},
		"domain that only ends so":         {rules: Rules{Domains: []string{"orp"}}, objects: asking()},
		"domain excluded":                  {rules: Rules{Domains: []string{"corp"}, ExcludeDomains: []string{"web.corp"}}, objects: asking()},
		"default TTL":                      {rules: Rules{TTL: 3600}, objects: asking(), want: []string{"web.corp 3600 A 10.9.9.9"}},
		"TTL as a duration":                {objects: asking("ttl", "12h"), want: []string{"web.corp 43200 A 10.9.9.9"}},
		"TTL between two":                  {objects: asking("ttl", "300"), want: published, problems: []string{"Service web TTLAdjusted"}},
		"TTL below all":                    {objects: asking("ttl", "1"), want: []string{"web.corp 5 A 10.9.9.9"}, problems: []string{"Service web TTLAdjusted"}},
		"TTL that is none":                 {rules: Rules{TTL: 30}, objects: asking("ttl", "soon"), want: []string{"web.corp 30 A 10.9.9.9"}, problems: []string{"Service web InvalidTTL"}},
		"TTL of nothing":                   {objects: services(testService(corev1.ServiceTypeClusterIP, "ttl", "300"))},
		"a bad name does not harm others":  {objects: asking("internal-hostname", "a b.corp,-x.corp,web.corp,ü.corp"), want: []string{"ab.corp 60 A 10.9.9.9", "web.corp 60 A 10.9.9.9"}, problems: []string{"Service web InvalidName", "Service web InvalidName"}},
		"PTR":                              {rules: Rules{PTR: true, Domains: []string{"corp"}}, objects: asking(), want: []string{"9.9.9.10.in-addr.arpa 60 PTR web.corp", "web.corp 60 A 10.9.9.9"}},
		"PTR not for this object":          {rules: Rules{PTR: true}, objects: asking("record-type", "a"), want: published},
		"PTR for this object":              {objects: asking("record-type", "ptr", "target", "fd00::1"), want: []string{"1." + strings.Repeat("0.", 27) + "0.0.d.f.ip6.arpa 60 PTR web.corp", "web.corp 60 AAAA fd00::1"}},
		"no PTR for a wildcard":            {rules: Rules{PTR: true}, objects: asking("internal-hostname", "*.corp"), want: []string{"*.corp 60 A 10.9.9.9"}},
		"several templates, one that asks": {rules: Rules{Templates: []string{"{{.Labels.none}}.corp", `{{if isSource "service"}}{{.Name}}.{{.Namespace}}.corp,, {{.Kind | toLower}}.corp{{end}}`}, PublishInternal: true}, objects: services(testService(corev1.ServiceTypeClusterIP)), want: []string{"service.corp 60 A 10.96.0.7", "service.corp 60 AAAA fd00::7", "web.shop.corp 60 A 10.96.0.7", "web.shop.corp 60 AAAA fd00::7"}},
		"a template that fails":            {rules: Rules{Templates: []string{`{{index .Name 99}}`}, PublishInternal: true}, objects: services(testService(corev1.ServiceTypeClusterIP)), problems: []string{"Service web TemplateFailed"}, message: "templates[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	service := func(name string, created int64, pairs ...string) *cluster.Service {
		svc := testService(corev1.ServiceTypeClusterIP, append([]string{"internal-hostname", "web.corp"}, pairs...)...)
		svc.Name.Name, svc.Created, svc.UID = name, time.Unix(created, 0), "u-"+name
		return svc
	}
	for name, tt := range map[string]wantCase{
		"values of two objects":       {objects: services(service("a", 1, "target", "10.0.0.1"), service("b", 2, "target", "10.0.0.2")), want: []string{"web.corp 60 A 10.0.0.1", "web.corp 60 A 10.0.0.2"}},
		"families of two objects":     {objects: services(service("a", 1, "target", "10.0.0.1"), service("b", 2, "target", "fd00::1")), want: []string{"web.corp 60 A 10.0.0.1", "web.corp 60 AAAA fd00::1"}},
		"the lowest TTL of a type":    {objects: services(service("a", 1, "target", "10.0.0.1"), service("b", 2, "target", "10.0.0.2", "ttl", "5")), want: []string{"web.corp 5 A 10.0.0.1", "web.corp 5 A 10.0.0.2"}},
		"an older CNAME":              {objects: services(service("b", 1, "target", "x.corp"), service("a", 2, "target", "10.0.0.2")), want: []string{"web.corp 60 CNAME x.corp"}, problems: []string{"Service a NameConflict"}, message: "the older Service/shop/b has it as CNAME"},
		"a younger CNAME":             {objects: services(service("b", 3, "target", "x.corp"), service("a", 2, "target", "10.0.0.2")), want: []string{"web.corp 60 A 10.0.0.2"}, problems: []string{"Service b NameConflict"}},
		"as old: the smaller name":    {objects: services(service("b", 2, "target", "x.corp"), service("a", 2, "target", "y.corp")), want: []string{"web.corp 60 CNAME y.corp"}, problems: []string{"Service b NameConflict"}},
		"the same CNAME":              {objects: services(service("b", 2, "target", "x.corp"), service("a", 2, "target", "X.corp.")), want: []string{"web.corp 60 CNAME x.corp"}},
		"who has lost has no PTR":     {rules: Rules{PTR: true}, objects: services(service("b", 1, "target", "x.corp"), service("a", 2, "target", "10.0.0.2")), want: []string{"web.corp 60 CNAME x.corp"}, problems: []string{"Service a NameConflict"}},
		"an address with two names":   {rules: Rules{PTR: true}, objects: services(service("a", 1, "target", "10.0.0.1", "internal-hostname", "a.corp,b.corp")), want: []string{"1.0.0.10.in-addr.arpa 60 PTR a.corp", "1.0.0.10.in-addr.arpa 60 PTR b.corp", "a.corp 60 A 10.0.0.1", "b.corp 60 A 10.0.0.1"}},
		"the same value is the older": {objects: services(service("b", 1, "target", "10.0.0.1"), service("a", 2, "target", "10.0.0.1")), want: []string{"web.corp 60 A 10.0.0.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
	w := newTestWants(t, Rules{})
	w.Apply(fullChange(services(service("b", 1, "target", "10.0.0.1"), service("a", 2, "target", "10.0.0.1"))))
	if got := w.For("web.corp"); len(got) != 1 || got[0].Object.Name != "b" {
		t.Errorf("the value belongs to %v", got)
	}
}

func TestRulesThatAreWrong(t *testing.T) {
	t.Parallel()
	_, err := NewWants(Rules{
		Sources: []Source{"service", "endpoints"}, Templates: []string{"{{.Name}}.corp", "{{.Name", "{{nope}}"}, Labels: "a in", ExcludeLabels: "((", Domains: []string{"a..b"},
		ExcludeDomains: []string{"*.x"}, TTL: 300, Access: "open",
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{
		`sources[1]: "endpoints" is unknown`, `templates[1]: "{{.Name"`, `templates[2]: "{{nope}}"`, `labels: "a in"`, `excludeLabels: "(("`, `domains[0]: "a..b"`, `excludeDomains[0]: "*.x"`,
		"ttl: PrivateZone does not take 300 s", `access: "open"`,
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
}

func TestKindsOfRules(t *testing.T) {
	t.Parallel()
	want := []cluster.Kind{cluster.Services, cluster.Namespaces, cluster.Nodes, cluster.HTTPRoutes, cluster.Gateways}
	if got := (Rules{Sources: []Source{SourceHTTPRoute, SourceService}}).Kinds(); !slices.Equal(got, want) {
		t.Errorf("kinds %v, want %v", got, want)
	}
}
