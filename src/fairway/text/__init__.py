"""Documents → tokens: corpora, tokenizers, shards, batches."""
