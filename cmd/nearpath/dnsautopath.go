package main

import (
	"context"
	"slices"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/autopath"
	"github.com/nearpath/nearpath/bpf"
	autopathplugin "github.com/nearpath/nearpath/plugins/autopath"
)

// buildScopes makes what knows how pods search, for the node's DNS and for the kernel.
func (a *agent) buildScopes(context.Context) error {
	last, err := a.datapath.Pods.LastScope()
	if err != nil {
		return err
	}
	// What is kept of searches was true of the names that the agent before knew, under its numbers.
	if err := a.datapath.Answers.DropScoped(); err != nil {
		return err
	}
	a.scopes = newDNSScopes(dnsScopesConfig{
		Domain: a.cfg.ClusterDomain, Host: func() []string { return searchOf(resolvConf, a.cfg.ClusterDomain) },
		Pod:   podFinder{store: a.store, manifests: a.cfg.Manifests != ""}.known,
		Files: sandboxFiles(), Kernel: a.datapath.Pods.SetScope, Ended: a.dropScope, Log: a.log, Last: last,
	})
	autopathplugin.Provide(autopathplugin.Node{Scopes: a.scopes, Left: a.scopeLeft})
	a.tasks = append(a.tasks, a.scopes)
	return nil
}

// dropScope forgets what is kept under a number that no pod has any more.
func (a *agent) dropScope(id uint32) {
	if err := a.datapath.Answers.DropScope(id); err != nil {
		a.log.Warn("answers of a search that no pod makes any more stay in the kernel", "err", err)
	}
}

// scopeLeft forgets answers to searches that begin with names which these pods now ask for as they are.
func (a *agent) scopeLeft(scope autopath.Scope, names []string) {
	id := a.scopes.ScopeID(scope)
	if id == 0 {
		return
	}
	for _, name := range names {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if err := a.datapath.Answers.Delete(bpf.AnswerKey{Name: name, Type: qtype, Scope: id}); err != nil {
				a.log.Warn("the answer to a search stays in the kernel", "name", name, "err", err)
			}
		}
	}
}

// searchOf are the domains that the node's resolv.conf searches. The agent's own may be that of a pod.
func searchOf(path, domain string) []string {
	text, err := readResolvConf(path)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(autopath.ParseResolvConf(text).Search, func(d string) bool {
		return dns.IsSubDomain(dns.Fqdn(domain), dns.Fqdn(d))
	})
}
