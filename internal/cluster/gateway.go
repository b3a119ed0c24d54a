package cluster

import (
	"fmt"
	"iter"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// A Gateway is the part of a gateway.networking.k8s.io/v1 Gateway that names are published for. It is immutable once it is
// in a Snapshot.
type Gateway struct {
	Meta
	Listeners []Listener
	// Addresses are those of the status, each an IP address or a hostname.
	Addresses []string
}

// A Listener is one of a Gateway that takes HTTPRoutes.
type Listener struct {
	Name     string
	Hostname string // may start with "*."; empty for any
	Port     uint16
	// From says which namespaces' routes it takes: All, Same, or Selector.
	From string
	// Selector is for the labels of the namespaces; nil unless From is Selector.
	Selector labels.Selector
}

func (g *Gateway) equal(o *Gateway) bool {
	return g.Meta.equal(&o.Meta) && slices.Equal(g.Addresses, o.Addresses) && slices.EqualFunc(g.Listeners, o.Listeners, Listener.equal)
}

func (l Listener) equal(o Listener) bool {
	return l.Name == o.Name && l.Hostname == o.Hostname && l.Port == o.Port && l.From == o.From &&
		selectorText(l.Selector) == selectorText(o.Selector)
}

func selectorText(s labels.Selector) string {
	if s == nil {
		return ""
	}
	return s.String()
}

// gateway is as much of the API's type as is read.
type gateway struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Listeners []gatewayListener `json:"listeners"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Value string `json:"value"`
		} `json:"addresses"`
	} `json:"status"`
}

type gatewayListener struct {
	Name          string `json:"name"`
	Hostname      string `json:"hostname"`
	Port          int32  `json:"port"`
	Protocol      string `json:"protocol"`
	AllowedRoutes struct {
		Namespaces struct {
			From     string                `json:"from"`
			Selector *metav1.LabelSelector `json:"selector"`
		} `json:"namespaces"`
		Kinds []struct {
			Group *string `json:"group"`
			Kind  string  `json:"kind"`
		} `json:"kinds"`
	} `json:"allowedRoutes"`
}

// gatewayFrom converts a Gateway; listeners that take no HTTPRoutes are left out. Errors name the object and the field.
func gatewayFrom(in *gateway) (*Gateway, error) {
	out := &Gateway{Meta: metaFrom(in)}
	for _, address := range in.Status.Addresses {
		out.Addresses = append(out.Addresses, address.Value)
	}
	for i := range in.Spec.Listeners {
		l := &in.Spec.Listeners[i]
		if !l.takesHTTPRoutes() {
			continue
		}
		listener, err := l.convert(i)
		if err != nil {
			return nil, fmt.Errorf("convert Gateway %s: %w", out.name(), err)
		}
		out.Listeners = append(out.Listeners, listener)
	}
	return out, nil
}

func (l *gatewayListener) takesHTTPRoutes() bool {
	if l.Protocol != "HTTP" && l.Protocol != "HTTPS" {
		return false
	}
	for _, kind := range l.AllowedRoutes.Kinds {
		if kind.Kind == kindHTTPRoute && (kind.Group == nil || *kind.Group == gatewayGroup) {
			return true
		}
	}
	return len(l.AllowedRoutes.Kinds) == 0
}

func (l *gatewayListener) convert(i int) (Listener, error) {
	if l.Port < 0 || l.Port > 65535 {
		return Listener{}, fmt.Errorf("spec.listeners[%d].port: %d is not a port", i, l.Port)
	}
	out := Listener{Name: l.Name, Hostname: l.Hostname, Port: uint16(l.Port), From: l.AllowedRoutes.Namespaces.From}
	switch out.From {
	case "":
		out.From = "Same" // what the API fills in
	case "Selector":
		selector, err := metav1.LabelSelectorAsSelector(l.AllowedRoutes.Namespaces.Selector)
		if err != nil {
			return Listener{}, fmt.Errorf("spec.listeners[%d].allowedRoutes.namespaces.selector: %w", i, err)
		}
		out.Selector = selector
	}
	return out, nil
}

// Gateway returns the Gateway of that name, nil when there is none or Gateways are not read.
func (s *Snapshot) Gateway(name Name) *Gateway {
	gateway, _ := s.gateways.get(name)
	return gateway
}

// Gateways yields every Gateway, in no particular order.
func (s *Snapshot) Gateways() iter.Seq[*Gateway] { return values(s.gateways) }

// PutGateway adds a Gateway or replaces the one of that name.
func (e *Edit) PutGateway(gateway *Gateway) { putObject(e, &e.next.gateways, Gateways, gateway) }

// DeleteGateway removes a Gateway.
func (e *Edit) DeleteGateway(name Name) { deleteObject(e, &e.next.gateways, Gateways, name) }
