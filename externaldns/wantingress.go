package externaldns

import (
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
)

// The values of the annotations ingress-hostname-source and gateway-hostname-source.
const (
	hostsDefined   = "defined-hosts-only"
	hostsAnnotated = "annotation-only"
)

// askIngress: the hosts of the spec ask for names as annotations do.
func (r *wantRules) askIngress(s *cluster.Snapshot, name cluster.Name) *asker {
	ingress := s.Ingress(name)
	if ingress == nil {
		return nil
	}
	a := r.asker(s, cluster.Ingresses, ingress.Meta)
	if !a.admitted() || len(r.IngressClasses) > 0 && !slices.Contains(r.IngressClasses, ingress.Class) {
		return nil
	}
	names := a.hosts(ingress.Hosts, "ingress-hostname-source")
	names = append(names, a.templated(a.asks("hostname") || len(ingress.Hosts) > 0)...)
	if !a.leadToTargets(names) {
		a.leadToBalancer(names, ingress.LoadBalancer)
	}
	return a
}

// hosts are the names of the spec, of the annotation hostname, or of both, as the annotation choice says.
func (a *asker) hosts(spec []string, choice string) []string {
	defined, annotated := a.hostSources(choice)
	var names []string
	if defined {
		names = a.names(spec, "host")
	}
	if annotated {
		names = append(names, a.annotated("hostname")...)
	}
	return names
}

func (a *asker) hostSources(choice string) (defined, annotated bool) {
	switch value := strings.ToLower(a.annotation(choice)); value {
	case hostsDefined:
		return true, false
	case hostsAnnotated:
		return false, true
	case "":
	default:
		a.problem(reasonUnknown, "annotation %s: %q is unknown: use %s or %s", choice, value, hostsDefined, hostsAnnotated)
	}
	return true, true
}
