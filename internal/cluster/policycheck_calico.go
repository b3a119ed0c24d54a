package cluster

import (
	"errors"
	"fmt"
	"slices"
)

// checkHead checks whom the policy selects, for which directions, and that it is about pods.
func (p *CalicoPolicy) checkHead() error {
	s := &p.Spec
	if s.DoNotTrack || s.PreDNAT {
		return errors.New("spec.doNotTrack, spec.preDNAT: true: such policies are of host endpoints, and there are none here: remove the policy")
	}
	for _, direction := range s.Types {
		if direction != CalicoIngress && direction != CalicoEgress {
			return fmt.Errorf("spec.types: %q: write %s or %s", direction, CalicoIngress, CalicoEgress)
		}
	}
	if err := checkExpr("spec.selector", s.Selector, true); err != nil {
		return err
	}
	if !p.Global() && s.NamespaceSelector != "" {
		return fmt.Errorf("spec.namespaceSelector: %q: is of GlobalNetworkPolicy only", s.NamespaceSelector)
	}
	if err := checkExpr("spec.namespaceSelector", s.NamespaceSelector, false); err != nil {
		return err
	}
	if s.ServiceAccountSelector != "" {
		return fmt.Errorf("spec.serviceAccountSelector: %q: labels of service accounts are not known here: write labels of pods into spec.selector", s.ServiceAccountSelector)
	}
	return nil
}

func checkExpr(field, text string, pods bool) error {
	e, err := parseExpr(field, text, pods)
	if err == nil && e.UsesGlobal() {
		err = fmt.Errorf("%s: %q: global() is for the namespaceSelector of rules only", field, text)
	}
	return err
}

// checkRules checks the rest, and refuses what is not supported.
func (p *CalicoPolicy) checkRules() error {
	var faults []error
	if p.Spec.ApplyOnForward {
		faults = append(faults, errors.New("spec.applyOnForward: true: there are no host endpoints here: remove the field"))
	}
	for i := range p.Spec.Ingress {
		r := &p.Spec.Ingress[i]
		faults = append(faults, checkCalicoRule(fmt.Sprintf("spec.ingress[%d]", i), r, "destination", &r.Destination))
	}
	for i := range p.Spec.Egress {
		r := &p.Spec.Egress[i]
		faults = append(faults, checkCalicoRule(fmt.Sprintf("spec.egress[%d]", i), r, "source", &r.Source))
	}
	return errors.Join(faults...)
}

// checkCalicoRule checks a rule, of which one end is the pod that the policy selects.
func checkCalicoRule(field string, r *CalicoRule, subject string, own *CalicoEntity) error {
	if r.Unread != "" {
		return fmt.Errorf("%s: %s: write only what docs/network-policy.md has", field, r.Unread)
	}
	if !slices.Contains([]string{CalicoAllow, CalicoDeny, CalicoPass, CalicoLog}, r.Action) {
		return fmt.Errorf("%s.action: %q: write %s, %s, %s or %s", field, r.Action, CalicoAllow, CalicoDeny, CalicoPass, CalicoLog)
	}
	if len(r.HTTP) > 0 && string(r.HTTP) != "null" {
		return fmt.Errorf("%s.http: %s: requests are not looked into: match ports", field, r.HTTP)
	}
	if v := r.IPVersion; v != nil && *v != 4 && *v != 6 {
		return fmt.Errorf("%s.ipVersion: %d: write 4 or 6", field, *v)
	}
	if len(r.Source.Ports)+len(r.Source.NotPorts) > 0 {
		return fmt.Errorf("%s.source: ports %v, notPorts %v: ports that packets come from are not looked at: match ports of the destination",
			field, r.Source.Ports, r.Source.NotPorts)
	}
	if len(own.Nets)+len(own.NotNets) > 0 {
		return fmt.Errorf("%s.%s: nets %v, notNets %v: this end is the pod that the policy selects: select it by labels", field, subject, own.Nets, own.NotNets)
	}
	return errors.Join(
		checkCalicoICMP(field+".icmp", r.ICMP, r.Protocol),
		checkCalicoICMP(field+".notICMP", r.NotICMP, r.Protocol),
		checkCalicoPorts(field+".destination", r),
		checkCalicoEntity(field+".source", &r.Source),
		checkCalicoEntity(field+".destination", &r.Destination),
	)
}

func checkCalicoICMP(field string, icmp *CalicoICMP, protocol *CalicoProtocol) error {
	switch {
	case icmp == nil:
		return nil
	case protocol == nil || !protocol.IsICMP():
		return fmt.Errorf("%s: needs the rule's protocol to be ICMP or ICMPv6", field)
	case icmp.Type == nil && icmp.Code != nil:
		return fmt.Errorf("%s.code: %d: needs a type", field, *icmp.Code)
	case icmp.Type != nil && (*icmp.Type < 0 || *icmp.Type > 255):
		return fmt.Errorf("%s.type: %d: write 0 to 255", field, *icmp.Type)
	case icmp.Code != nil && (*icmp.Code < 0 || *icmp.Code > 255):
		return fmt.Errorf("%s.code: %d: write 0 to 255", field, *icmp.Code)
	}
	return nil
}

func checkCalicoPorts(field string, r *CalicoRule) error {
	d := &r.Destination
	named := func(p CalicoPort) bool { return p.Name != "" }
	if i := slices.IndexFunc(d.NotPorts, named); i >= 0 {
		return fmt.Errorf("%s.notPorts: %q: ports left out cannot be named: write the number, or deny the port in a rule before", field, d.NotPorts[i].Name)
	}
	if i := slices.IndexFunc(d.Ports, named); i >= 0 && len(d.NotPorts) > 0 {
		return fmt.Errorf("%s.notPorts: cannot be beside the named port %q: write its number, or deny the others in a rule before", field, d.Ports[i].Name)
	}
	if r.Protocol != nil && !r.Protocol.HasPorts() && len(d.Ports)+len(d.NotPorts) > 0 {
		return fmt.Errorf("%s: ports %v, notPorts %v: protocol %d has none: write TCP, UDP or SCTP", field, d.Ports, d.NotPorts, *r.Protocol)
	}
	if r.Protocol == nil && (len(d.NotPorts) > 0 || slices.ContainsFunc(d.Ports, func(p CalicoPort) bool { return !named(p) })) {
		return fmt.Errorf("%s: ports %v, notPorts %v: need the rule's protocol: write TCP, UDP or SCTP", field, d.Ports, d.NotPorts)
	}
	return nil
}

func checkCalicoEntity(field string, e *CalicoEntity) error {
	if len(e.Services) > 0 && string(e.Services) != "null" {
		return fmt.Errorf("%s.services: %s: is not supported: select the pods of the Service, or write networks", field, e.Services)
	}
	if len(e.Domains) > 0 {
		return fmt.Errorf("%s.domains: %v: is not supported: write a ClusterNetworkPolicy with domainNames", field, e.Domains)
	}
	if a := e.ServiceAccounts; a != nil && a.Selector != "" {
		return fmt.Errorf("%s.serviceAccounts.selector: %q: labels of service accounts are not known here: write serviceAccounts.names", field, a.Selector)
	}
	for name, text := range map[string]string{"selector": e.Selector, "notSelector": e.NotSelector} {
		if err := checkExpr(field+"."+name, text, true); err != nil {
			return err
		}
	}
	in, err := parseExpr(field+".namespaceSelector", e.NamespaceSelector, false)
	if err != nil {
		return err
	}
	if in.UsesGlobal() && !in.IsGlobal() {
		return fmt.Errorf("%s.namespaceSelector: %q: global() cannot stand beside anything", field, e.NamespaceSelector)
	}
	if _, err := calicoNets(field+".nets", e.Nets); err != nil {
		return err
	}
	_, err = calicoNets(field+".notNets", e.NotNets)
	return err
}
