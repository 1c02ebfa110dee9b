// Package jsonapi has what the servers share of API 3.0, whose bodies are JSON:API 1.1 documents: how requests are read, and how
// answers refuse. The shapes themselves are in internal/api.
package jsonapi
