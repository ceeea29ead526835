"""Whether the service lives, and whether it is ready for work."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

router = APIRouter(tags=["service"])


@router.get("/health", operation_id="health")
async def health() -> dict[str, Any]:
    """Tell that this process answers; touches nothing."""
    return {"status": "ok"}
