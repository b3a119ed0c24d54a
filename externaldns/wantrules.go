package externaldns

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A Source is a kind of object that names are published for. The names are those of external-dns.
type Source string

// The sources there are.
const (
	SourceService     Source = "service"
	SourcePod         Source = "pod"
	SourceNode        Source = "node"
	SourceIngress     Source = "ingress"
	SourceHTTPRoute   Source = "gateway-httproute"
	SourceDNSEndpoint Source = "crd"
)

// A wantSource is what a Source is made of.
type wantSource struct {
	name  Source
	kind  cluster.Kind
	also  []cluster.Kind // what else is looked at
	title string         // the API's kind
}

func wantSources() map[Source]wantSource {
	return map[Source]wantSource{
		SourceService:     {SourceService, cluster.Services, []cluster.Kind{cluster.Nodes}, "Service"},
		SourcePod:         {SourcePod, cluster.Pods, []cluster.Kind{cluster.Nodes}, "Pod"},
		SourceNode:        {SourceNode, cluster.Nodes, nil, "Node"},
		SourceIngress:     {SourceIngress, cluster.Ingresses, nil, "Ingress"},
		SourceHTTPRoute:   {SourceHTTPRoute, cluster.HTTPRoutes, []cluster.Kind{cluster.Gateways, cluster.Namespaces}, "HTTPRoute"},
		SourceDNSEndpoint: {SourceDNSEndpoint, cluster.DNSEndpoints, nil, "DNSEndpoint"},
	}
}

// Rules say which objects get which names. The zero value asks for nothing, as it has no sources.
type Rules struct {
	Sources []Source
	// Templates are Go templates (text/template) for names, of what [TemplateFields] has. Several names are separated by
	// commas. An object without a label or annotation that a template names gets no name from it.
	Templates []string
	// Combine adds the names of templates to those that annotations and specs ask for; else they stand in where none is.
	Combine bool

	// Namespaces leaves only objects in these, empty for all; ExcludeNamespaces leaves out objects in those. Nodes have no
	// namespace and are not concerned.
	Namespaces, ExcludeNamespaces []string
	// Labels leaves only objects that the label selector matches; ExcludeLabels leaves out those that this one matches.
	Labels, ExcludeLabels string
	// Domains leaves only names that are one of these or below one, empty for all; ExcludeDomains leaves out names
	// likewise. PTR names are not concerned.
	Domains, ExcludeDomains []string
	// IngressClasses leaves only Ingresses of these classes, empty for all.
	IngressClasses []string

	// TTL is in seconds for records that ask for none; 0 means 60. It must be one of those that PrivateZone accepts.
	TTL int
	// PublishInternal makes the annotation hostname, and templates, of a Service of type ClusterIP lead to its cluster IPs.
	// Else only internal-hostname does.
	PublishInternal bool
	// PTR adds a PTR record for every address; the annotation record-type overrides it for an object.
	PTR bool
	// Access says which addresses of nodes are published where the annotation access does not: "public" (ExternalIP, and
	// InternalIP of IPv6), "private" (InternalIP), or "" for public if there is any ExternalIP, else private.
	Access string
}

// Kinds are the kinds of objects that the rules look at: what a source of package cluster is to read for publishing.
func (r Rules) Kinds() []cluster.Kind {
	var kinds []cluster.Kind
	for _, name := range r.Sources {
		s := wantSources()[name]
		kinds = append(append(kinds, s.kind), s.also...)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

const (
	accessPublic  = "public"
	accessPrivate = "private"
)

// wantRules are Rules that have been checked.
type wantRules struct {
	Rules
	kinds                 map[cluster.Kind]wantSource // the sources
	templates             []*template.Template
	labels, excludeLabels labels.Selector
}

// compile checks the rules; the error names every fault.
func (r Rules) compile() (*wantRules, error) {
	c := &wantRules{Rules: r, kinds: make(map[cluster.Kind]wantSource)}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for i, name := range r.Sources {
		s, ok := wantSources()[name]
		if !ok {
			fault("sources[%d]: %q is unknown: use service, pod, node, ingress, gateway-httproute or crd", i, name)
			continue
		}
		c.kinds[s.kind] = s
	}
	var err error
	if c.templates, err = parseTemplates(r.Templates); err != nil {
		errs = append(errs, err)
	}
	if c.labels, err = parseSelector("labels", r.Labels, labels.Everything()); err != nil {
		errs = append(errs, err)
	}
	if c.excludeLabels, err = parseSelector("excludeLabels", r.ExcludeLabels, labels.Nothing()); err != nil {
		errs = append(errs, err)
	}
	if c.Domains, err = parseDomains("domains", r.Domains); err != nil {
		errs = append(errs, err)
	}
	if c.ExcludeDomains, err = parseDomains("excludeDomains", r.ExcludeDomains); err != nil {
		errs = append(errs, err)
	}
	c.TTL = cmp.Or(c.TTL, defaultWantTTL)
	if _, exact := snapTTL(int64(c.TTL)); !exact {
		fault("ttl: PrivateZone does not take %d s: use one of %v", c.TTL, acceptedTTLs())
	}
	if r.Access != "" && r.Access != accessPublic && r.Access != accessPrivate {
		fault("access: %q is unknown: use public, private or nothing", r.Access)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("read the rules for names: %w", err)
	}
	return c, nil
}

func parseSelector(field, text string, empty labels.Selector) (labels.Selector, error) {
	if text == "" {
		return empty, nil
	}
	selector, err := labels.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %q: %w", field, text, err)
	}
	return selector, nil
}

func parseDomains(field string, in []string) ([]string, error) {
	var out []string
	for i, domain := range in {
		name := canonicalName(strings.TrimPrefix(strings.TrimSpace(domain), "."))
		if err := checkWantName(name); err != nil || strings.HasPrefix(name, "*") {
			return nil, fmt.Errorf("%s[%d]: %q is not a domain name: write one such as corp.example.com", field, i, domain)
		}
		out = append(out, name)
	}
	return out, nil
}

// admits reports whether an object is among those the rules are about.
func (r *wantRules) admits(namespace string, objectLabels map[string]string) bool {
	if namespace != "" {
		if len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, namespace) || slices.Contains(r.ExcludeNamespaces, namespace) {
			return false
		}
	}
	set := labels.Set(objectLabels)
	return r.labels.Matches(set) && !r.excludeLabels.Matches(set)
}

// silent reports whether an object with these annotations cannot ask for a name, as most cannot: only annotations and
// templates do.
func (r *wantRules) silent(annotations map[string]string) bool {
	return len(annotations) == 0 && len(r.templates) == 0
}

// inScope reports whether a name is in the domains that the rules are about.
func (r *wantRules) inScope(name string) bool {
	below := func(domain string) bool { return name == domain || strings.HasSuffix(name, "."+domain) }
	return (len(r.Domains) == 0 || slices.ContainsFunc(r.Domains, below)) && !slices.ContainsFunc(r.ExcludeDomains, below)
}
