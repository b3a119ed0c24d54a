package cluster

import (
	"fmt"
	"iter"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	gatewayGroup = "gateway.networking.k8s.io"
	// conditionAccepted is the type of the condition by which a Gateway's controller takes a route.
	conditionAccepted = "Accepted"
)

// An HTTPRoute is the part of a gateway.networking.k8s.io/v1 HTTPRoute that names are published for. It is immutable once
// it is in a Snapshot.
type HTTPRoute struct {
	Meta
	Hostnames []string
	// Parents are the Gateways that the spec names and that have accepted the route, as its status says.
	Parents []ParentRef
}

// A ParentRef is a Gateway, or some of its listeners, that a route is attached to.
type ParentRef struct {
	Gateway Name
	Section string // the name of a listener; empty for all
	Port    uint16 // of the listeners; 0 for all
}

func (r *HTTPRoute) equal(o *HTTPRoute) bool {
	return r.Meta.equal(&o.Meta) && slices.Equal(r.Hostnames, o.Hostnames) && slices.Equal(r.Parents, o.Parents)
}

// httpRoute is as much of the API's type as is read, so that the API's module is not needed.
type httpRoute struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Hostnames  []string        `json:"hostnames"`
		ParentRefs []httpParentRef `json:"parentRefs"`
	} `json:"spec"`
	Status struct {
		Parents []struct {
			ParentRef  httpParentRef      `json:"parentRef"`
			Conditions []metav1.Condition `json:"conditions"`
		} `json:"parents"`
	} `json:"status"`
}

type httpParentRef struct {
	Group       *string `json:"group"`
	Kind        *string `json:"kind"`
	Namespace   *string `json:"namespace"`
	Name        string  `json:"name"`
	SectionName string  `json:"sectionName"`
	Port        int32   `json:"port"`
}

// gateway returns the Gateway that is meant; false for a parent of another kind, as a Service is in a mesh.
func (p *httpParentRef) gateway(namespace string) (Name, bool) {
	if p.Group != nil && *p.Group != gatewayGroup || p.Kind != nil && *p.Kind != kindGateway {
		return Name{}, false
	}
	if p.Namespace != nil {
		namespace = *p.Namespace
	}
	return Name{namespace, p.Name}, true
}

// httpRouteFrom converts an HTTPRoute. Errors name the object and the field.
func httpRouteFrom(in *httpRoute) (*HTTPRoute, error) {
	route := &HTTPRoute{Meta: metaFrom(in), Hostnames: in.Spec.Hostnames}
	if err := route.convert(in); err != nil {
		return nil, fmt.Errorf("convert HTTPRoute %s: %w", route.name(), err)
	}
	return route, nil
}

func (r *HTTPRoute) convert(in *httpRoute) error {
	named := make(map[Name]bool)
	for i := range in.Spec.ParentRefs {
		if gateway, ok := in.Spec.ParentRefs[i].gateway(in.Namespace); ok {
			named[gateway] = true
		}
	}
	for i := range in.Status.Parents {
		at := &in.Status.Parents[i]
		gateway, ok := at.ParentRef.gateway(in.Namespace)
		if !ok || !named[gateway] || !isTrue(at.Conditions, conditionAccepted) {
			continue
		}
		if port := at.ParentRef.Port; port < 0 || port > 65535 {
			return fmt.Errorf("status.parents[%d].parentRef.port: %d is not a port", i, port)
		}
		r.Parents = append(r.Parents, ParentRef{gateway, at.ParentRef.SectionName, uint16(at.ParentRef.Port)})
	}
	return nil
}

func isTrue(conditions []metav1.Condition, kind string) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
		return c.Type == kind && c.Status == metav1.ConditionTrue
	})
}

// HTTPRoute returns the route of that name, nil when there is none or routes are not read.
func (s *Snapshot) HTTPRoute(name Name) *HTTPRoute {
	route, _ := s.routes.get(name)
	return route
}

// HTTPRoutes yields every route, in no particular order.
func (s *Snapshot) HTTPRoutes() iter.Seq[*HTTPRoute] { return values(s.routes) }

// PutHTTPRoute adds a route or replaces the one of that name.
func (e *Edit) PutHTTPRoute(route *HTTPRoute) { putObject(e, &e.next.routes, HTTPRoutes, route) }

// DeleteHTTPRoute removes a route.
func (e *Edit) DeleteHTTPRoute(name Name) { deleteObject(e, &e.next.routes, HTTPRoutes, name) }
