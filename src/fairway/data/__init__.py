"""Documents to tokens: corpora, tokenizers, shards, batches."""
