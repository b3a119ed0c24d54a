package cluster

import (
	"fmt"
	"iter"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// annotationIngressClass is the class of Ingresses older than spec.ingressClassName.
const annotationIngressClass = "kubernetes.io/ingress.class"

// An Ingress is the part of a networking.k8s.io/v1 Ingress that names are published for. It is immutable once it is in a
// Snapshot.
type Ingress struct {
	Meta
	// Class is spec.ingressClassName, else the annotation kubernetes.io/ingress.class; empty for none.
	Class string
	// Hosts are those of the rules and then those of TLS, without empty ones; they may repeat.
	Hosts        []string
	LoadBalancer LoadBalancer
}

func (i *Ingress) equal(o *Ingress) bool {
	return i.Meta.equal(&o.Meta) && i.Class == o.Class && slices.Equal(i.Hosts, o.Hosts) && i.LoadBalancer.equal(&o.LoadBalancer)
}

// IngressFrom converts an Ingress of the API. Errors name the object and the field.
func IngressFrom(in *networkingv1.Ingress) (*Ingress, error) {
	ingress := &Ingress{Meta: metaFrom(in), Class: intern(in.Annotations[annotationIngressClass])}
	if class := in.Spec.IngressClassName; class != nil && *class != "" {
		ingress.Class = intern(*class)
	}
	for _, rule := range in.Spec.Rules {
		if rule.Host != "" {
			ingress.Hosts = append(ingress.Hosts, rule.Host)
		}
	}
	for _, tls := range in.Spec.TLS {
		for _, host := range tls.Hosts {
			if host != "" {
				ingress.Hosts = append(ingress.Hosts, host)
			}
		}
	}
	for i, at := range in.Status.LoadBalancer.Ingress {
		if err := ingress.LoadBalancer.add(i, at.IP, at.Hostname); err != nil {
			return nil, fmt.Errorf("convert Ingress %s: %w", ingress.name(), err)
		}
	}
	return ingress, nil
}

// Ingress returns the Ingress of that name, nil when there is none or Ingresses are not read.
func (s *Snapshot) Ingress(name Name) *Ingress {
	ingress, _ := s.ingresses.get(name)
	return ingress
}

// Ingresses yields every Ingress, in no particular order.
func (s *Snapshot) Ingresses() iter.Seq[*Ingress] { return values(s.ingresses) }

// PutIngress adds an Ingress or replaces the one of that name.
func (e *Edit) PutIngress(ingress *Ingress) { putObject(e, &e.next.ingresses, Ingresses, ingress) }

// DeleteIngress removes an Ingress.
func (e *Edit) DeleteIngress(name Name) { deleteObject(e, &e.next.ingresses, Ingresses, name) }
